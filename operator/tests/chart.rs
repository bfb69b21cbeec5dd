//! The rendered chart: what it contains, what it must not contain, and that the manifest is up to
//! date.

#![allow(clippy::unwrap_used)]

mod common;
#[path = "chart/doors.rs"]
mod doors;

use std::{collections::BTreeSet, iter, path::Path, time::Duration};

use clap::Parser;
use common::{documents, output, repository, run, tool};
use pinkeeper::{
    config::{PeerOptions, Period},
    telemetry::LogFormat,
};
use pinkeeper_operator::{crd::definitions, kubo};
use serde_json::{Value, json};

/// The namespace of `manifests/install.yaml`, and the Secret that it expects there.
const NAMESPACE: &str = "pinkeeper-system";
const SECRET: &str = "pinkeeper-secret";

fn chart() -> String {
    repository().join("charts/pinkeeper").to_str().unwrap().to_owned()
}

/// `helm template`, with `--set` for each of `values`.
fn render(values: &[&str]) -> String {
    render_by("helm", values)
}

/// The same by `helm` or by `helm3`.
fn render_by(helm: &str, values: &[&str]) -> String {
    let chart = chart();
    let mut args = vec!["template", "pinkeeper", &chart, "--namespace", NAMESPACE];
    args.extend(values.iter().flat_map(|value| ["--set", value]));
    run(&tool(helm), args)
}

fn rendered(values: &[&str]) -> Vec<Value> {
    documents(&render(values))
}

/// The only object of that kind and name.
fn find<'a>(objects: &'a [Value], kind: &str, name: &str) -> &'a Value {
    let mut found = objects.iter().filter(|o| o["kind"] == kind && o["metadata"]["name"] == name);
    let object = found.next().unwrap_or_else(|| panic!("no {kind} {name}"));
    assert!(found.next().is_none(), "two {kind} {name}");
    object
}

/// The containers of a pod, with the init containers, by name.
fn container<'a>(pod: &'a Value, name: &str) -> &'a Value {
    containers(pod).into_iter().find(|c| c["name"] == name).unwrap()
}

fn containers(pod: &Value) -> Vec<&Value> {
    ["initContainers", "containers"]
        .iter()
        .flat_map(|list| pod[list].as_array().into_iter().flatten())
        .collect()
}

fn pods(objects: &[Value]) -> Vec<&Value> {
    objects
        .iter()
        .filter(|o| o["kind"] == "StatefulSet" || o["kind"] == "Job")
        .map(|o| &o["spec"]["template"]["spec"])
        .collect()
}

#[test]
fn helm_finds_nothing_to_complain_about() {
    run(&tool("helm"), ["lint", "--strict", &chart()]);
}

#[test]
fn the_committed_manifest_is_the_rendered_chart() {
    let head = format!(
        "# The chart with its default values, for kubectl apply. The namespace and the definitions are files\n\
         # of their own, so that deleting this file deletes no Pin and no volume:\n\
         #\n\
         #   kubectl apply -f manifests/namespace.yaml -f crds/\n\
         #   kubectl -n {NAMESPACE} create secret generic {SECRET} \\\n\
         #     --from-literal=cluster-secret=$(openssl rand -hex 32)\n\
         #   kubectl apply -f manifests/install.yaml\n\
         #\n\
         # Generated from charts/pinkeeper by `make generate`; do not edit.\n"
    );
    let secret = format!("existingSecret={SECRET}");
    let text = render(&[&secret, "crds.install=false"]);
    for object in documents(&text) {
        let kind = object["kind"].as_str().unwrap();
        assert!(!["Job", "Namespace", "CustomResourceDefinition"].contains(&kind), "a {kind}");
    }
    common::generated("manifests/install.yaml", &(head + &text));
}

#[test]
fn a_version_with_a_plus_gives_valid_labels() {
    let folder = tempfile::tempdir().unwrap();
    let copy = folder.path().join("pinkeeper");
    run(Path::new("/bin/cp"), ["-r", &chart(), copy.to_str().unwrap()]);
    let version = format!("1.2.3-{}+build.7", "long".repeat(14));
    let file = copy.join("Chart.yaml");
    let text = std::fs::read_to_string(&file).unwrap().replace("0.1.0", &version);
    std::fs::write(&file, text).unwrap();
    let objects = documents(&run(&tool("helm"), ["template", "x", copy.to_str().unwrap()]));
    let label = |c: char| c.is_ascii_alphanumeric();
    for object in objects {
        for (key, value) in object["metadata"]["labels"].as_object().unwrap() {
            let value = value.as_str().unwrap();
            let is_valid = value.len() <= 63
                && value.starts_with(label)
                && value.ends_with(label)
                && value.chars().all(|c| label(c) || "-_.".contains(c));
            assert!(is_valid, "{key}: {value}");
        }
    }
}

#[test]
fn two_renderings_are_equal_and_hold_no_secret() {
    let text = render(&[]);
    assert_eq!(text, render(&[]));
    for object in documents(&text) {
        assert_ne!(object["kind"], "Secret");
    }
    // 32 random bytes would be 64 hexadecimal or 44 base64 characters in a row. The only such
    // string is the checksum of the configuration.
    let long = |c: char| !c.is_ascii_alphanumeric() && c != '+' && c != '/';
    let suspicious: Vec<&str> = text
        .lines()
        .filter(|line| !line.trim_start().starts_with("rule:") && !line.contains("self.matches"))
        .flat_map(|line| line.split(long))
        .filter(|word| word.len() >= 43 && word.chars().any(|c| c.is_ascii_digit()))
        .collect();
    let object = rendered(&[]);
    let pods = &find(&object, "StatefulSet", "pinkeeper")["spec"]["template"];
    assert_eq!(json!(suspicious), json!([pods["metadata"]["annotations"]["checksum/config"]]));
}

#[test]
fn the_definitions_are_the_generated_ones() {
    let objects = rendered(&[]);
    for mut definition in definitions() {
        let name = definition["metadata"]["name"].as_str().unwrap().to_owned();
        let mut found = find(&objects, "CustomResourceDefinition", &name).clone();
        assert_eq!(found["metadata"]["annotations"]["helm.sh/resource-policy"], "keep");
        found["metadata"] = json!({});
        definition["metadata"] = json!({});
        assert_eq!(found, definition, "{name}");
    }
    let none = rendered(&["crds.install=false"]);
    assert!(none.iter().all(|o| o["kind"] != "CustomResourceDefinition"));
    let fewer = rendered(&["defaultReplicas=2"]);
    let pins = find(&fewer, "CustomResourceDefinition", "pins.pinkeeper.dev");
    let schema = &pins["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
    assert_eq!(schema["properties"]["spec"]["properties"]["replicas"]["default"], 2);
    let not_kept = rendered(&["crds.keep=false"]);
    let pins = find(&not_kept, "CustomResourceDefinition", "pins.pinkeeper.dev");
    assert!(pins["metadata"].get("annotations").is_none());
}

#[test]
fn helm_3_renders_what_helm_4_does() {
    for values in [&[][..], &["existingSecret=mine", "kubo.private=true", "peers=5"]] {
        let by = |helm| documents(&render_by(helm, values));
        assert_eq!(by("helm3"), by("helm"), "{values:?}");
    }
}

#[test]
fn values_are_checked() {
    let refused = [
        "nope=1",
        "kubo.nope=1",
        "peers=0",
        "peers=three",
        "defaultReplicas=0",
        "deletionGuard.deleted.percent=101",
        "deletionGuard.missing.contents=-1",
        "logging.format=xml",
        "storage.ipfs.size=much",
        "kubo.swarmPort=80",
        "pinStallTimeout=soon",
        "pinStallTimeout=0s",
        "gc.watermarkPercent=101",
        "gc.pause=often",
        "gc.timeout=0m",
        "movement.after=never",
        "movement.zoneAfter=0h",
        "kubo.storageMax=lots",
        "rest.hosts[0]=a:9094",
        "kubo.config=x",
        "kubo.config.Addresses.API=/ip4/0.0.0.0/tcp/5001",
        "kubo.config.Datastore.StorageMax=9GB",
        "kubo.config.datastore=x",
        "kubo.extraEnv[0].name=IPFS_PATH",
        "kubo.extraEnv[0].nope=x",
        "kubo.swarmKey.nope=x",
        "image.pullPolicy=Sometimes",
        "fullnameOverride=Not_A_Name",
        "imagePullSecrets=registry",
        "install.nope=1",
    ];
    for value in refused {
        let chart = chart();
        let output = output(&tool("helm"), ["template", "x", &chart, "--set", value]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let path = value.split_once('=').unwrap().0;
        let key = path.rsplit('.').next().unwrap().split('[').next().unwrap();
        assert!(!output.status.success(), "{value} was taken");
        assert!(said.contains(key), "{value}: {said}");
    }
    let taken = [
        "peers=5",
        "kubo.storageMax=40GB",
        "kubo.private=true",
        "storage.raft.storageClassName=fast",
        "imagePullSecrets[0].name=registry",
        "nodeSelector.disk=ssd",
        "resources.limits.memory=1Gi",
        "fullnameOverride=pins",
    ];
    for value in taken {
        rendered(&[value]);
    }
}

#[test]
fn values_reach_what_they_are_for() {
    let objects = rendered(&[
        "peers=5",
        "defaultReplicas=2",
        "deletionGuard.deleted.contents=7",
        "deletionGuard.missing.percent=50",
        "kubo.storageMax=40GB",
        "kubo.private=true",
        "kubo.swarmPort=4444",
        "image.tag=dev",
        "storage.ipfs.size=7Gi",
        "storage.ipfs.storageClassName=slow",
        "terminationGracePeriodSeconds=60",
    ]);
    let set = &find(&objects, "StatefulSet", "pinkeeper")["spec"];
    let pod = &set["template"]["spec"];
    let config = &find(&objects, "ConfigMap", "pinkeeper")["data"];
    assert_eq!(set["replicas"], 5);
    assert_eq!(config["initial-peers"], "5");
    assert_eq!(pod["terminationGracePeriodSeconds"], 60);
    let ipfs = &set["volumeClaimTemplates"][1]["spec"];
    assert_eq!(ipfs["resources"]["requests"]["storage"], "7Gi");
    assert_eq!(ipfs["storageClassName"], "slow");
    assert!(set["volumeClaimTemplates"][0]["spec"].get("storageClassName").is_none());
    let kubo = container(pod, "kubo");
    for arg in ["--private", "--storage-max=40GB", "--swarm-port=4444"] {
        assert!(kubo["args"].as_array().unwrap().contains(&json!(arg)), "{arg}");
    }
    assert_eq!(kubo["ports"][0]["containerPort"], 4444);
    let peer = container(pod, "pinkeeper");
    for arg in [
        "--default-replicas=2",
        "--max-deleted=7",
        "--max-deleted-percent=25",
        "--max-missing=10",
        "--max-missing-percent=50",
    ] {
        assert!(peer["args"].as_array().unwrap().contains(&json!(arg)), "{arg}");
    }
    assert_eq!(peer["image"], "docker.io/pinkeeper/pinkeeper:dev");
}

#[test]
fn every_container_can_be_given_resources() {
    let paths = ["resources", "kubo.resources", "install.resources", "makeSecret.resources"];
    let values = paths.map(|path| format!("{path}.limits.cpu=2"));
    let objects = rendered(&values.each_ref().map(String::as_str));
    for pod in pods(&objects) {
        for container in containers(pod) {
            assert_eq!(container["resources"]["limits"]["cpu"], 2, "{container}");
        }
    }
}

#[test]
fn labels_of_people_do_not_replace_those_that_select_the_pods() {
    let text = render(&[r"podLabels.app\.kubernetes\.io/name=mine", "podLabels.team=storage"]);
    let objects = documents(&text);
    let set = &find(&objects, "StatefulSet", "pinkeeper")["spec"];
    let labels = &set["template"]["metadata"]["labels"];
    assert_eq!(labels["team"], "storage");
    for (key, value) in set["selector"]["matchLabels"].as_object().unwrap() {
        assert_eq!(&labels[key], value);
    }
}

#[test]
fn another_number_of_peers_does_not_replace_pods_but_another_configuration_does() {
    let template = |values: &[&str]| {
        find(&rendered(values), "StatefulSet", "pinkeeper")["spec"]["template"].clone()
    };
    assert_eq!(template(&["peers=3"]), template(&["peers=5"]));
    assert_ne!(template(&[]), template(&["pinStallTimeout=7s"]));
}

#[test]
fn the_secret_is_made_by_a_job_or_given() {
    let objects = rendered(&[]);
    let job = find(&objects, "Job", "pinkeeper-make-secret");
    let args = job["spec"]["template"]["spec"]["containers"][0]["args"].as_array().unwrap();
    assert!(args.contains(&json!("--name=pinkeeper-secret")));
    assert_eq!(job["metadata"]["annotations"]["helm.sh/hook"], "pre-install,pre-upgrade");
    assert_eq!(secret_of(&objects), "pinkeeper-secret");
    let role = find(&objects, "Role", "pinkeeper-make-secret");
    assert_eq!(
        role["rules"],
        json!([{"apiGroups": [""], "resources": ["secrets"], "verbs": ["create"]}])
    );

    let given = rendered(&["existingSecret=mine"]);
    assert!(given.iter().all(|o| o["metadata"]["name"] != "pinkeeper-make-secret"));
    assert_eq!(secret_of(&given), "mine");
}

fn secret_of(objects: &[Value]) -> &Value {
    let pod = &find(objects, "StatefulSet", "pinkeeper")["spec"]["template"]["spec"];
    let volumes = pod["volumes"].as_array().unwrap();
    &volumes.iter().find(|v| v["name"] == "secret").unwrap()["secret"]["secretName"]
}

#[test]
fn no_role_is_wider_than_needed() {
    let objects = rendered(&[]);
    for role in objects.iter().filter(|o| o["kind"] == "Role" || o["kind"] == "ClusterRole") {
        let name = &role["metadata"]["name"];
        for rule in role["rules"].as_array().unwrap() {
            assert!(!rule.to_string().contains('*'), "{name}: {rule}");
            let secrets = rule["resources"].as_array().unwrap().contains(&json!("secrets"));
            assert!(!secrets || name == "pinkeeper-make-secret", "{name}: {rule}");
        }
    }
    let cluster = &find(&objects, "ClusterRole", "pinkeeper:pinkeeper-system:pinkeeper")["rules"];
    let allowed = |group: &str, resource: &str| -> BTreeSet<String> {
        let rules = cluster.as_array().unwrap().iter();
        rules
            .filter(|r| r["apiGroups"] == json!([group]) && r["resources"] == json!([resource]))
            .flat_map(|r| r["verbs"].as_array().unwrap())
            .map(|verb| verb.as_str().unwrap().to_owned())
            .collect()
    };
    assert_eq!(allowed("pinkeeper.dev", "pins"), verbs(&["get", "list", "watch"]));
    assert_eq!(allowed("pinkeeper.dev", "pins/status"), verbs(&["patch"]));
    assert_eq!(allowed("events.k8s.io", "events"), verbs(&["create"]));
    assert_eq!(allowed("", "namespaces"), verbs(&["get"]));
}

fn verbs(list: &[&str]) -> BTreeSet<String> {
    list.iter().map(|verb| (*verb).to_owned()).collect()
}

#[test]
fn pods_are_built_as_the_cluster_needs_them() {
    let objects = rendered(&[]);
    let set = &find(&objects, "StatefulSet", "pinkeeper")["spec"];
    assert_eq!(set["podManagementPolicy"], "Parallel");
    assert_eq!(
        set["persistentVolumeClaimRetentionPolicy"],
        json!({"whenDeleted": "Retain", "whenScaled": "Retain"})
    );
    let pod = &set["template"]["spec"];
    assert_eq!(container(pod, "kubo")["restartPolicy"], "Always", "a native sidecar");
    for probe in ["startupProbe", "livenessProbe", "readinessProbe"] {
        assert!(container(pod, "kubo").get(probe).is_none(), "the daemon has a {probe}");
        assert!(container(pod, "pinkeeper").get(probe).is_some(), "the peer has no {probe}");
    }
    let startup = &container(pod, "pinkeeper")["startupProbe"];
    let patience =
        startup["periodSeconds"].as_u64().unwrap() * startup["failureThreshold"].as_u64().unwrap();
    assert_eq!(patience, 3600);
    let service = &find(&objects, "Service", "pinkeeper")["spec"];
    assert_eq!(service["clusterIP"], "None");
    assert_eq!(service["publishNotReadyAddresses"], true);
    assert_eq!(set["serviceName"], "pinkeeper");
    let budget = &find(&objects, "PodDisruptionBudget", "pinkeeper")["spec"];
    assert_eq!(budget["maxUnavailable"], 1);
    assert_eq!(budget["selector"], set["selector"]);
    assert_eq!(service["selector"], set["selector"]["matchLabels"]);
}

#[test]
fn every_container_has_few_rights_and_only_the_peer_a_token() {
    let objects = rendered(&[]);
    for pod in pods(&objects) {
        assert_eq!(pod["securityContext"]["runAsNonRoot"], true);
        assert_eq!(pod["securityContext"]["seccompProfile"]["type"], "RuntimeDefault");
        for container in containers(pod) {
            let context = &container["securityContext"];
            assert_eq!(context["allowPrivilegeEscalation"], false, "{container}");
            assert_eq!(context["capabilities"]["drop"], json!(["ALL"]), "{container}");
            assert_eq!(context["readOnlyRootFilesystem"], true, "{container}");
            assert!(container["resources"]["requests"].is_object(), "{container}");
        }
    }
    let pod = &find(&objects, "StatefulSet", "pinkeeper")["spec"]["template"]["spec"];
    assert_eq!(pod["automountServiceAccountToken"], false);
    let with_token: Vec<&str> = containers(pod)
        .into_iter()
        .filter(|c| c["volumeMounts"].to_string().contains("serviceaccount"))
        .map(|c| c["name"].as_str().unwrap())
        .collect();
    assert_eq!(with_token, ["pinkeeper"]);
}

#[test]
fn the_daemon_and_the_peer_do_not_see_each_others_files() {
    let objects = rendered(&[]);
    let pod = &find(&objects, "StatefulSet", "pinkeeper")["spec"]["template"]["spec"];
    let of = |name: &str| -> Vec<Value> {
        let mounts = container(pod, name)["volumeMounts"].as_array().unwrap();
        mounts.iter().filter(|mount| mount["name"] != "program").cloned().collect()
    };
    let repository = json!({
        "name": "ipfs", "mountPath": "/data/ipfs/repository", "subPath": "repository",
    });
    assert_eq!(of("kubo"), [repository]);
    let ledger = json!({"name": "ipfs", "mountPath": "/data/ipfs/ledger", "subPath": "ledger"});
    let of_ipfs: Vec<Value> = of("pinkeeper").into_iter().filter(|m| m["name"] == "ipfs").collect();
    assert_eq!(of_ipfs, [ledger]);
}

#[test]
fn two_releases_do_not_meet_outside_of_their_namespaces() {
    let of = |namespace: &str, release: &str| {
        let chart = chart();
        let fullname = format!("fullnameOverride={release}");
        let args = ["template", release, &chart, "--namespace", namespace, "--set", &fullname];
        let objects = documents(&run(&tool("helm"), args));
        let names: BTreeSet<String> = objects
            .iter()
            .filter(|o| o["metadata"].get("namespace").is_none())
            .filter(|o| o["kind"] != "CustomResourceDefinition")
            .map(|o| format!("{} {}", o["kind"], o["metadata"]["name"]))
            .collect();
        assert_eq!(names.len(), 4, "{names:?}");
        names
    };
    assert!(of("a", "pins").is_disjoint(&of("b", "pins")));
    assert!(of("a", "b-c").is_disjoint(&of("a-b", "c")));
}

/// The command line of the daemon's supervisor, as in the binary.
#[derive(Debug, clap::Parser)]
struct Kubo {
    #[command(flatten)]
    args: kubo::Args,
}

/// The supervisor's arguments with these values.
fn supervisor(values: &[&str]) -> kubo::Args {
    let objects = rendered(values);
    let pod = &find(&objects, "StatefulSet", "pinkeeper")["spec"]["template"]["spec"];
    let given = container(pod, "kubo")["args"].as_array().unwrap().clone();
    let given = given.iter().map(|arg| arg.as_str().unwrap().to_owned());
    Kubo::try_parse_from(iter::once("kubo".to_owned()).chain(given)).unwrap().args
}

#[test]
fn the_supervisor_understands_its_arguments() {
    let usual = supervisor(&[]);
    assert!(!usual.private);
    assert_eq!(usual.storage_max, None);
    let other = supervisor(&[
        "kubo.private=true",
        "kubo.storageMax=40GB",
        "kubo.swarmPort=4444",
        "kubo.config.Provide.Strategy=roots",
        "kubo.config.Gateway.RootRedirect=$(HOME)<a&b>",
        "kubo.swarmKey.secretName=mine",
    ]);
    // Kubernetes replaces two dollars by one.
    let text = r#"{"Gateway":{"RootRedirect":"$$(HOME)<a&b>"},"Provide":{"Strategy":"roots"}}"#;
    assert_eq!(other.given, text.parse().unwrap());
    assert_eq!(other.swarm_key_file, Some("/etc/pinkeeper-swarm/swarm.key".into()));
    assert!(other.private);
    assert_eq!(other.storage_max.as_deref(), Some("40GB"));
    assert_eq!((usual.swarm_port, other.swarm_port), (Some(4001), Some(4444)));
    assert!(usual.swarm.is_empty(), "Kubo's own addresses are replaced");
}

#[test]
fn what_the_operator_depends_on_in_the_daemon_cannot_be_set() {
    for path in kubo::RESERVED {
        let chart = chart();
        let value = format!("kubo.config.{path}=x");
        let output = output(&tool("helm"), ["template", "x", &chart, "--set", &value]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let place = format!("/kubo/config/{}", path.replace('.', "/"));
        assert!(!output.status.success() && said.contains(&place), "{value}: {said}");
    }
}

#[test]
fn the_daemon_has_its_environment_and_its_key() {
    let objects = rendered(&[
        "kubo.extraEnv[0].name=GOLOG_LOG_LEVEL",
        "kubo.extraEnv[0].value=debug",
        "kubo.swarmKey.secretName=mine",
        "kubo.swarmKey.key=k",
    ]);
    let pod = &find(&objects, "StatefulSet", "pinkeeper")["spec"]["template"]["spec"];
    let environment = container(pod, "kubo")["env"].as_array().unwrap();
    let memory = json!({"containerName": "kubo", "resource": "limits.memory"});
    assert_eq!(environment[1]["valueFrom"]["resourceFieldRef"], memory);
    assert_eq!(environment.last().unwrap(), &json!({"name": "GOLOG_LOG_LEVEL", "value": "debug"}));
    let volumes = pod["volumes"].as_array().unwrap();
    let key = &volumes.iter().find(|v| v["name"] == "swarm-key").unwrap()["secret"];
    let items = json!([{"key": "k", "path": "swarm.key"}]);
    assert_eq!((&key["secretName"], &key["items"]), (&json!("mine"), &items));
    let with_key: Vec<&Value> = containers(pod)
        .into_iter()
        .filter(|c| c["volumeMounts"].to_string().contains("swarm-key"))
        .map(|c| &c["name"])
        .collect();
    assert_eq!(with_key, ["kubo"]);
}

#[test]
fn the_peer_understands_its_configuration() {
    let options = |values: &[&str]| {
        let objects = rendered(values);
        let text = &find(&objects, "ConfigMap", "pinkeeper")["data"]["config.yaml"];
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text.as_str().unwrap()).unwrap();
        PeerOptions::from_file(file.path()).unwrap()
    };
    let usual = options(&[]);
    assert_eq!(usual.data_dir, Some("/data/raft".into()));
    assert_eq!(usual.gc_watermark, Some(0));
    assert_eq!(usual.secret_file, Some("/etc/pinkeeper-secret/cluster-secret".into()));
    let other = options(&[
        "raft.heartbeatMilliseconds=50",
        "raft.electionMinMilliseconds=150",
        "raft.electionMaxMilliseconds=250",
        "pinStallTimeout=7s",
        "concurrentPins=3",
        "gc.watermarkPercent=85",
        "gc.pause=6h",
        "gc.timeout=10m",
        "movement.after=2m",
        "movement.zoneAfter=3h",
        "rest.hosts[0]=pins.example.org",
        r"logging.level=info\,pinkeeper=debug",
        "logging.format=text",
    ]);
    assert_eq!(other.heartbeat_ms, Some(50));
    assert_eq!(other.election_min_ms, Some(150));
    assert_eq!(other.election_max_ms, Some(250));
    assert_eq!(other.pin_stall_timeout, Some(Period(Duration::from_secs(7))));
    assert_eq!(other.concurrent_pins, Some(3));
    assert_eq!(other.gc_watermark, Some(85));
    assert_eq!(other.rest_hosts, Some(vec!["pins.example.org".to_owned().try_into().unwrap()]));
    assert_eq!(other.gc_pause, Some(Period(Duration::from_secs(6 * 3600))));
    assert_eq!(other.gc_timeout, Some(Period(Duration::from_secs(600))));
    assert_eq!(other.move_after, Some(Period(Duration::from_secs(120))));
    assert_eq!(other.move_zone_after, Some(Period(Duration::from_secs(3 * 3600))));
    assert_eq!(other.log_level, Some("info,pinkeeper=debug".parse().unwrap()));
    assert_eq!(other.log_format, Some(LogFormat::Text));
}
