//! What a real API server accepts and refuses: Pins, and everything that the chart installs.

#![allow(clippy::unwrap_used)]

mod common;

use std::process::Output;

use cid::{multibase::Base, multihash::Multihash};
use common::{ControlPlane, documents, repository, run, tool};
use kube::{
    Api, Client,
    api::{DynamicObject, Patch, PatchParams, PostParams},
    core::{ApiResource, Status},
};
use pinkeeper_operator::{crd, secret};
use serde_json::{Value, json};

const V0: &str = "QmbWqxBEKC3P8tqsKc98xmWNzrzDtRLMiMPL8wBuTGsMnR";
const V1_BASE32: &str = "bafybeigdyrzt5sfp7udm7hu76uh7y26nf3efuylqabf3oclgtqy55fbzdi";

async fn with_definitions() -> (ControlPlane, Client) {
    let plane = ControlPlane::start();
    for file in ["crds/pins.yaml", "crds/clusterpeers.yaml"] {
        let path = repository().join(file);
        success(&plane.kubectl(&["apply", "-f", path.to_str().unwrap()]));
    }
    let established = ["wait", "--for=condition=Established", "--timeout=30s", "crd", "--all"];
    success(&plane.kubectl(&established));
    let client = plane.client().await;
    (plane, client)
}

/// An untyped Pin: the typed form could not express what must be refused.
fn pin(name: &str, spec: Value) -> DynamicObject {
    let mut object =
        DynamicObject::new(name, &ApiResource::erase::<crd::Pin>(&())).within("default");
    object.data = json!({"spec": spec});
    object
}

fn pins(client: &Client) -> Api<DynamicObject> {
    Api::namespaced_with(client.clone(), "default", &ApiResource::erase::<crd::Pin>(&()))
}

/// Creates as kubectl does: unknown fields are an error.
async fn create(client: &Client, name: &str, spec: Value) -> Result<DynamicObject, Box<Status>> {
    let strict = PostParams { field_manager: Some("test".into()), ..PostParams::default() };
    let request = kube::core::Request::new("/apis/pinkeeper.dev/v1alpha1/namespaces/default/pins");
    let body = serde_json::to_vec(&pin(name, spec)).unwrap();
    let mut request = request.create(&strict, body).unwrap();
    let uri = format!("{}&fieldValidation=Strict", request.uri());
    *request.uri_mut() = uri.parse().unwrap();
    client.request(request).await.map_err(refusal)
}

fn refusal(error: kube::Error) -> Box<Status> {
    match error {
        kube::Error::Api(status) => status,
        other => panic!("no answer of the API server: {other}"),
    }
}

fn success(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout.clone()).unwrap()
}

#[tokio::test]
async fn pins_are_taken_or_refused_with_the_reason() {
    let (_plane, client) = with_definitions().await;
    let good = [
        ("v0", json!({"cid": V0})),
        ("v1-base32", json!({"cid": V1_BASE32})),
        ("v1-base58", json!({"cid": "zdj7WWeQ43G6JJvLWQWZpyHuAMq6uYWRjkBXFad11vE2LHhQ7"})),
        ("v1-raw", json!({"cid": "bafkreigh2akiscaildcqabsyg3dfr6chu3fgpregiymsck7e7aqa4s52zy"})),
        (
            "v1-base16",
            json!({"cid":
                "f01551220c3c4733ec8affd06cf9e9ff50ffc6bcd2ec85a6170004bb709669c31de94391a"}),
        ),
        ("v1-base36", json!({"cid": "k2jmtxu61bnhrtj301lw7zizknztocdbeqhxgv76l2q9t36fn9jbzipo"})),
        ("identity", json!({"cid": "bafkqabtimvwgy3yk"})),
        ("shortest", json!({"cid": "bafkqaaa"})),
        ("counts", json!({"cid": V0, "replicas": 3, "minReplicas": 3})),
        ("least-alone", json!({"cid": V0, "minReplicas": 3})),
        ("many", json!({"cid": V0, "replicas": 1000})),
        ("retain", json!({"cid": V0, "deletionPolicy": "Retain"})),
    ];
    for (name, spec) in good {
        create(&client, name, spec).await.unwrap_or_else(|s| panic!("{name}: {}", s.message));
    }
    let long = "b".repeat(10_000);
    let cut = &V1_BASE32[..40];
    let twice = format!("{V0}{V0}");
    let bad = [
        (json!({}), "spec.cid: Required value"),
        (json!({"cid": ""}), "not a CID by its characters"),
        (json!({"cid": "hello"}), "not a CID by its characters"),
        (json!({"cid": V0.replace('b', "0")}), "not a CID by its characters"),
        (json!({"cid": V1_BASE32.replace('g', "1")}), "not a CID by its characters"),
        (json!({"cid": V1_BASE32.to_uppercase().replacen('B', "b", 1)}), "by its characters"),
        (json!({"cid": format!(" {V0}")}), "not a CID by its characters"),
        (json!({"cid": format!("{V0}\n")}), "not a CID by its characters"),
        (json!({"cid": &V0[..45]}), "not a CID by its length"),
        (json!({"cid": twice}), "not a CID by its length"),
        (json!({"cid": cut}), "not a CID by its length"),
        (json!({"cid": "bafy"}), "not a CID by its length"),
        (json!({"cid": format!("/ipfs/{V0}")}), "without /ipfs/"),
        (json!({"cid": format!("ipfs://{V1_BASE32}")}), "without /ipfs/"),
        (json!({"cid": format!("{V0}/index.html")}), "without /ipfs/"),
        (json!({"cid": long}), "spec.cid: Too long: may not be more than 256"),
        (json!({"cid": V0, "deletionPolicy": long}), "spec.deletionPolicy: Unsupported value"),
        (json!({"cid": V0, "replicas": 0}), "spec.replicas in body should be greater than or"),
        (json!({"cid": V0, "minReplicas": 0}), "spec.minReplicas in body should be greater"),
        (json!({"cid": V0, "replicas": -1}), "spec.replicas in body should be greater than or"),
        (json!({"cid": V0, "replicas": 1.5}), "spec.replicas in body must be of type integer"),
        (json!({"cid": V0, "replicas": "3"}), "spec.replicas in body must be of type integer"),
        (json!({"cid": V0, "replicas": 70_000}), "spec.replicas in body should be less than or"),
        (
            json!({"cid": V0, "replicas": 2, "minReplicas": 3}),
            "minReplicas must not be larger than replicas",
        ),
        (json!({"cid": V0, "minReplicas": 4}), "minReplicas must not be larger than replicas"),
        (json!({"cid": V0, "replica": 2}), r#"unknown field "spec.replica""#),
    ];
    let keys = ipns_keys().map(|cid| (json!({"cid": cid}), "an IPNS key names no content"));
    for (spec, message) in bad.into_iter().chain(keys) {
        let said = create(&client, "bad", spec.clone()).await.expect_err(&spec.to_string());
        assert!(said.message.contains(message), "{spec}: {}", said.message);
    }
}

/// An Ed25519 and an RSA key, each in its usual forms.
fn ipns_keys() -> impl Iterator<Item = String> {
    let ed25519: Vec<u8> = [8, 1, 0x12, 32].into_iter().chain([0x5a; 32]).collect();
    [(0, ed25519), (0x12, vec![0x5a; 32])].into_iter().flat_map(|(hash, digest)| {
        let key = cid::Cid::new_v1(0x72, Multihash::<64>::wrap(hash, &digest).unwrap());
        let bases = [Base::Base36Lower, Base::Base32Lower, Base::Base16Lower];
        bases.map(|base| key.to_string_of_base(base).unwrap())
    })
}

/// No rule about a CID's form may refuse a valid one.
#[tokio::test]
async fn every_kind_of_cid_in_every_base_is_taken() {
    let (_plane, client) = with_definitions().await;
    // Codecs: raw, dag-pb, dag-cbor, dag-json. Hashes: identity, SHA1, SHA2-256, SHA2-512, Blake3,
    // Blake2b-256.
    let codecs = [0x55, 0x70, 0x71, 0x0129];
    let hashes =
        [(0, 0), (0, 5), (0, 64), (0x11, 20), (0x12, 32), (0x13, 64), (0x1e, 32), (0xb220, 32)];
    let bases = [
        Base::Base32Lower,
        Base::Base32Upper,
        Base::Base32HexLower,
        Base::Base32HexUpper,
        Base::Base58Btc,
        Base::Base58Flickr,
        Base::Base36Lower,
        Base::Base36Upper,
        Base::Base16Lower,
        Base::Base16Upper,
        Base::Base64Url,
    ];
    for (codec, (hash, len)) in codecs.into_iter().flat_map(|c| hashes.map(|h| (c, h))) {
        for (number, base) in bases.iter().enumerate() {
            // The first and the last possible digest, and one in between.
            let fill = [0x00, 0xff, 0x5a][number % 3];
            let hash = Multihash::<64>::wrap(hash, &vec![fill; len]).unwrap();
            let cid = cid::Cid::new_v1(codec, hash).to_string_of_base(*base).unwrap();
            let object = pin("any", json!({"cid": cid}));
            let params = PostParams { dry_run: true, ..PostParams::default() };
            if let Err(error) = pins(&client).create(&params, &object).await {
                panic!("{cid} ({base:?}): {}", refusal(error).message);
            }
        }
    }
}

#[tokio::test]
async fn a_pin_can_be_scaled_selected_and_shown_but_its_cid_stays() {
    let (plane, client) = with_definitions().await;
    let fresh = create(&client, "docs", json!({"cid": V1_BASE32})).await.unwrap();
    assert_eq!(fresh.data["status"], json!({"observedGeneration": -1}), "it looks done");
    assert_eq!(fresh.data["spec"]["deletionPolicy"], "Unpin");
    let scale = pins(&client).get_scale("docs").await.unwrap();
    assert_eq!(scale.spec.unwrap().replicas, Some(3), "the default");
    create(&client, "other", json!({"cid": V0})).await.unwrap();

    for cid in [V0, "k2jmtxu61bnhrtj301lw7zizknztocdbeqhxgv76l2q9t36fn9jbzipo"] {
        let change = json!({"spec": {"cid": cid}});
        let params = PatchParams::default();
        let said = pins(&client).patch("docs", &params, &Patch::Merge(&change)).await;
        let said = refusal(said.unwrap_err()).message;
        assert!(said.contains("cid cannot be changed; create another Pin"), "{said}");
    }

    // Its spec has no `replicas`.
    success(&plane.kubectl(&["scale", "pin/docs", "--replicas=4"]));
    let scaled = pins(&client).get("docs").await.unwrap();
    assert_eq!(scaled.data["spec"]["replicas"], 4);
    assert_eq!(scaled.metadata.generation, Some(2));
    let refused = plane.kubectl(&["scale", "pin/docs", "--replicas=0"]);
    assert!(!refused.status.success());
    let scale = pins(&client).get_scale("docs").await.unwrap();
    assert_eq!(scale.status.unwrap().replicas, 0, "before any status");

    let selector = format!("--field-selector=spec.cid={V0}");
    let found = success(&plane.kubectl(&["get", "pins", &selector, "-o", "name"]));
    assert_eq!(found.trim(), "pin.pinkeeper.dev/other");

    write_status(&client).await;
    let table = success(&plane.kubectl(&["get", "ipfspin", "docs", "--no-headers"]));
    let cells: Vec<&str> = table.split_whitespace().collect();
    assert_eq!(cells[..5], ["docs", V1_BASE32, "False", "Pinning", "2/3"], "{table}");
    let scale = pins(&client).get_scale("docs").await.unwrap();
    assert_eq!(scale.status.unwrap().replicas, 2);
    let explained = success(&plane.kubectl(&["explain", "pin", "--recursive"]));
    for field in ["cid", "minReplicas", "deletionPolicy", "allocations", "readyReplicas"] {
        assert!(explained.contains(field), "{field} is not explained");
    }
}

/// Writes statuses as the controllers do, in the typed form, and some that the schema must refuse.
async fn write_status(client: &Client) {
    let pins: Api<crd::Pin> = Api::namespaced(client.clone(), "default");
    let now = "2026-01-01T00:00:00Z";
    let condition = json!({
        "type": "Ready", "status": "False", "reason": crd::PinReason::Pinning.as_str(),
        "message": "1 of 3 copies is missing", "lastTransitionTime": now, "observedGeneration": 2,
    });
    let status = json!({
        "observedGeneration": 2, "observedEntries": 7,
        "copies": "2/3", "replicas": 2, "readyReplicas": 1, "desiredReplicas": 3,
        "conditions": [condition],
        "allocations": [
            {"peer": "pinkeeper-0", "state": "Pinned", "since": now},
            {"peer": "pinkeeper-1", "state": "Pinning", "since": now, "message": "12 blocks"},
        ],
    });
    let status: crd::PinStatus = serde_json::from_value(status).unwrap();
    let apply = async |status: &crd::PinStatus| {
        let patch = json!({
            "apiVersion": "pinkeeper.dev/v1alpha1", "kind": "Pin", "status": status,
        });
        let params = PatchParams::apply("pinkeeper").force();
        pins.patch_status("docs", &params, &Patch::Apply(&patch)).await
    };
    let written = apply(&status).await.unwrap();
    assert_eq!(written.status.as_ref(), Some(&status), "what was written comes back");

    let longest = "ü".repeat(crd::MESSAGE_LEN_MAX);
    let with_message = |message: String| {
        let mut changed = status.clone();
        changed.conditions[0].message.clone_from(&message);
        changed.allocations[1].message = message;
        changed
    };
    apply(&with_message(longest.clone())).await.expect("the bound counts characters");
    let said = refusal(apply(&with_message(longest + "ü")).await.unwrap_err()).message;
    assert!(said.contains("status.conditions[0].message: Too long"), "{said}");
    assert!(said.contains("status.allocations[1].message: Too long"), "{said}");
    let mut twice = status.clone();
    twice.allocations.push(twice.allocations[0].clone());
    assert!(apply(&twice).await.is_err(), "one peer has two entries");
    apply(&status).await.unwrap();
}

#[tokio::test]
async fn a_peer_can_present_itself() {
    let (plane, client) = with_definitions().await;
    let peers: Api<crd::ClusterPeer> = Api::namespaced(client, "default");
    let new = crd::ClusterPeer::new("pinkeeper-0", crd::ClusterPeerSpec::default());
    let fresh = peers.create(&PostParams::default(), &new).await.unwrap();
    assert_eq!(fresh.status.unwrap().observed_generation, Some(-1), "it looks done");
    let status = crd::ClusterPeerStatus {
        observed_generation: Some(1),
        peer_id: Some("12D3KooWD3eckifWpRn9wQpMG9R9hX3sD158z7EqHWmweQAJU5SA".into()),
        cluster_id: Some("00".repeat(16)),
        addresses: vec!["/ip4/10.0.0.1/tcp/9096".into()],
        role: Some(crd::PeerRole::Leader),
        version: Some("0.1.0".into()),
        daemon: Some(crd::ClusterPeerDaemon {
            id: "12D3KooWD3eckifWpRn9wQpMG9R9hX3sD158z7EqHWmweQAJU5SA".into(),
            agent: "kubo/0.43.1".into(),
            addresses: vec!["/ip4/10.0.0.1/tcp/4001/p2p/12D3KooW".into()],
        }),
        repository_size: Some(crd::quantity(3 << 30)),
        free_space: Some(crd::quantity(123 << 30)),
        pins: Some(12),
        queue: Some(0),
        conditions: Vec::new(),
    };
    let patch = json!({
        "apiVersion": "pinkeeper.dev/v1alpha1", "kind": "ClusterPeer", "status": status,
    });
    let params = PatchParams::apply("pinkeeper").force();
    let written = peers.patch_status("pinkeeper-0", &params, &Patch::Apply(&patch)).await.unwrap();
    assert_eq!(written.status, Some(status));
    let table = success(&plane.kubectl(&["get", "clusterpeers", "-o", "wide", "--no-headers"]));
    for cell in ["pinkeeper-0", "Leader", "0.1.0", "kubo/0.43.1", "120Gi", "12", "3Gi"] {
        assert!(table.split_whitespace().any(|c| c == cell), "{cell}: {table}");
    }
}

#[tokio::test]
async fn a_bare_server_takes_the_manifest_and_restricted_namespaces_its_pods() {
    let plane = ControlPlane::start();
    let client = plane.client().await;
    let said = apply_manifests(&plane);
    assert!(said.contains("statefulset.apps/pinkeeper created"), "{said}");
    apply_manifests(&plane);
    apply_hooks(&plane);
    let generation = ["-n", "pinkeeper-system", "get", "sts,pdb", "-o"];
    let each = "jsonpath={range .items[*]}{.metadata.generation} {end}";
    let generations = success(&plane.kubectl(&[&generation[..], &[each]].concat()));
    assert_eq!(generations, "1 1 ", "applying it again changes something");

    // No controller runs here, so the pods are made from the templates by hand.
    let resource = ApiResource::erase::<k8s_openapi::api::core::v1::Pod>(&());
    let pods: Api<DynamicObject> =
        Api::namespaced_with(client.clone(), "pinkeeper-system", &resource);
    let chart = repository().join("charts/pinkeeper");
    let render = ["template", "pinkeeper", chart.to_str().unwrap(), "-n", "pinkeeper-system"];
    let mut made = 0;
    for object in documents(&run(&tool("helm"), render)) {
        let template = &object["spec"]["template"]["spec"];
        if !template.is_object() {
            continue;
        }
        let mut pod = DynamicObject::new(object["metadata"]["name"].as_str().unwrap(), &resource);
        pod.data = json!({"spec": with_volumes(template.clone())});
        pods.create(&PostParams::default(), &pod).await.unwrap();
        pod.metadata.name = Some("too-powerful".into());
        pod.data["spec"]["containers"][0]["securityContext"] = json!({"privileged": true});
        let said = refusal(pods.create(&PostParams::default(), &pod).await.unwrap_err()).message;
        assert!(said.contains(r#"violates PodSecurity "restricted"#), "{said}");
        made += 1;
    }
    assert_eq!(made, 2, "a peer and the Job");

    let sample = repository().join("manifests/samples/pin.yaml");
    success(&plane.kubectl(&["apply", "--validate=strict", "-f", sample.to_str().unwrap()]));

    // Removing the installation keeps the Pins, and the namespace with the volumes.
    let manifest = repository().join("manifests/install.yaml");
    success(&plane.kubectl(&["delete", "--wait=false", "-f", manifest.to_str().unwrap()]));
    for kept in ["pin.pinkeeper.dev/docs", "namespace/pinkeeper-system"] {
        let state = ["get", kept, "-o", "jsonpath={.metadata.deletionTimestamp}"];
        assert_eq!(success(&plane.kubectl(&state)), "", "{kept}");
    }
}

/// The chart's hooks, which create the Secret. With the manifest, people create it.
fn apply_hooks(plane: &ControlPlane) {
    let chart = repository().join("charts/pinkeeper");
    let render = ["template", "pinkeeper", chart.to_str().unwrap(), "-n", "pinkeeper-system"];
    let only = ["--show-only", "templates/secret-job.yaml"];
    let folder = tempfile::tempdir().unwrap();
    let hooks = folder.path().join("hooks.yaml");
    std::fs::write(&hooks, run(&tool("helm"), [&render[..], &only].concat())).unwrap();
    success(&plane.kubectl(&["apply", "-f", hooks.to_str().unwrap()]));
}

/// Installs as the head of `manifests/install.yaml` says.
fn apply_manifests(plane: &ControlPlane) -> String {
    let path = |name: &str| repository().join(name).to_str().unwrap().to_owned();
    let apply = |file: &str| success(&plane.kubectl(&["apply", "--validate=strict", "-f", file]));
    apply(&path("manifests/namespace.yaml"));
    apply(&path("crds"));
    apply(&path("manifests/install.yaml"))
}

#[tokio::test]
async fn who_may_edit_a_namespace_may_edit_its_pins_and_not_their_statuses() {
    let plane = ControlPlane::start();
    apply_manifests(&plane);
    let may = |user: &str, verb: &str, part: &str| {
        let (user, part) = (format!("--as={user}"), format!("--subresource={part}"));
        let pins = "pins.pinkeeper.dev";
        let asked = plane.kubectl(&["auth", "can-i", verb, pins, &part, "-n", "default", &user]);
        asked.status.success()
    };
    // No controller manager runs here to aggregate the roles, so this checks the labels only.
    let aggregated = |role: &str, into: &str| {
        let name = format!("pinkeeper:pinkeeper-system:pinkeeper:{role}");
        let label = format!(
            "jsonpath={{.metadata.labels.rbac\\.authorization\\.k8s\\.io/aggregate-to-{into}}}"
        );
        success(&plane.kubectl(&["get", "clusterrole", &name, "-o", &label]))
    };
    for (role, into, expected) in [
        ("view", "view", "true"),
        ("view", "edit", "true"),
        ("view", "admin", "true"),
        ("edit", "view", ""),
        ("edit", "edit", "true"),
        ("edit", "admin", "true"),
    ] {
        assert_eq!(aggregated(role, into), expected, "{role} into {into}");
    }
    for (role, user) in [("view", "reader"), ("edit", "writer")] {
        let role = format!("--clusterrole=pinkeeper:pinkeeper-system:pinkeeper:{role}");
        let subject = format!("--user={user}");
        success(&plane.kubectl(&["create", "rolebinding", user, "-n", "default", &role, &subject]));
    }
    for (user, verb, what, expected) in [
        ("reader", "list", "", true),
        ("reader", "create", "", false),
        ("writer", "create", "", true),
        ("writer", "delete", "", true),
        ("writer", "patch", "scale", true),
        ("writer", "patch", "status", false),
    ] {
        assert_eq!(may(user, verb, what), expected, "{user} {verb} {what}");
    }
}

/// A StatefulSet's controller turns the claim templates into volumes of the pod.
fn with_volumes(mut pod: Value) -> Value {
    for name in ["raft", "ipfs"] {
        if let Some(volumes) = pod["volumes"].as_array_mut() {
            volumes.push(json!({"name": name, "emptyDir": {}}));
        }
    }
    pod
}

#[tokio::test]
async fn helm_installs_upgrades_and_uninstalls_and_the_definitions_stay() {
    let plane = ControlPlane::start();
    let chart = repository().join("charts/pinkeeper");
    let chart = chart.to_str().unwrap();
    // Hooks and readiness need the controllers of a whole Kubernetes.
    let helm = |args: &[&str]| {
        let kubeconfig = ["--kubeconfig", plane.kubeconfig.to_str().unwrap()];
        run(&tool("helm"), [args, &kubeconfig, &["--namespace", "pins", "--no-hooks"]].concat())
    };
    let said = helm(&["install", "pinkeeper", chart, "--create-namespace"]);
    // The example in the notes can be applied.
    let notes = said.split("NOTES:").nth(1).unwrap();
    let start = notes.find("  apiVersion:").unwrap();
    let [mut pin] = documents(&notes[start..notes.find("  END").unwrap()]).try_into().unwrap();
    assert_eq!(pin["spec"]["cid"], "<CID of the content>");
    pin["spec"]["cid"] = "bafybeigdyrzt5sfp7udm7hu76uh7y26nf3efuylqabf3oclgtqy55fbzdi".into();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("pin.json");
    std::fs::write(&file, Value::to_string(&pin)).unwrap();
    success(&plane.kubectl(&["apply", "--validate=strict", "-f", file.to_str().unwrap()]));

    helm(&["upgrade", "pinkeeper", chart, "--set", "peers=5"]);
    let replicas = ["-n", "pins", "get", "sts", "pinkeeper", "-o", "jsonpath={.spec.replicas}"];
    assert_eq!(success(&plane.kubectl(&replicas)), "5");
    helm(&["uninstall", "pinkeeper"]);
    let left = success(&plane.kubectl(&["get", "pins", "docs", "-o", "name"]));
    assert_eq!(left.trim(), "pin.pinkeeper.dev/docs", "the Pins went with the release");
}

#[tokio::test]
async fn the_secret_is_made_once_with_the_right_to_create_only() {
    let plane = ControlPlane::start();
    let admin = plane.client().await;
    apply_manifests(&plane);
    apply_hooks(&plane);
    let args = secret::Args {
        name: "pinkeeper-secret".into(),
        namespace: "pinkeeper-system".into(),
        labels: Vec::new(),
    };
    let client = plane.client_as("pinkeeper-system", "pinkeeper-make-secret").await;
    assert_eq!(secret::create(client.clone(), &args).await, Ok(secret::Outcome::Created));
    let secrets: Api<k8s_openapi::api::core::v1::Secret> =
        Api::namespaced(admin, "pinkeeper-system");
    let first = secrets.get("pinkeeper-secret").await.unwrap();
    assert_eq!(secret::create(client.clone(), &args).await, Ok(secret::Outcome::Kept));
    assert_eq!(secrets.get("pinkeeper-secret").await.unwrap(), first);
    let key = String::from_utf8(first.data.unwrap()[secret::KEY].0.clone()).unwrap();
    assert!(key.len() == 64 && key.chars().all(|c| c.is_ascii_hexdigit()), "{key}");

    let mine: Api<k8s_openapi::api::core::v1::Secret> = Api::namespaced(client, "pinkeeper-system");
    assert_eq!(refusal(mine.get("pinkeeper-secret").await.unwrap_err()).code, 403);
    let elsewhere = secret::Args { namespace: "default".into(), ..args };
    let other = plane.client_as("pinkeeper-system", "pinkeeper-make-secret").await;
    let said = secret::create(other, &elsewhere).await.unwrap_err().to_string();
    assert!(said.contains("forbidden"), "{said}");
}
