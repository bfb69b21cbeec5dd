//! Access to daemons from outside: the rendered objects, and what `pinkeeper kubo` announces.

use super::*;

const BASE: [&str; 2] = ["swarm.service.type=NodePort", "swarm.service.nodePortBase=30400"];

fn services(objects: &[Value]) -> Vec<&Value> {
    let is_door = |o: &&Value| {
        o["kind"] == "Service" && o["metadata"]["name"].as_str().unwrap().ends_with("-swarm")
    };
    objects.iter().filter(is_door).collect()
}

/// The addresses that the daemon of a pod announces on a node with two addresses.
fn announced(values: &[&str], pod: &str) -> Vec<String> {
    let mut args = supervisor(values);
    args.pod = Some(pod.to_owned());
    args.node_ips = vec!["192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap()];
    args.settings().unwrap().announce
}

#[test]
fn each_daemon_has_a_door_of_its_own() {
    assert!(services(&rendered(&[])).is_empty());
    let objects = rendered(&BASE);
    let doors = services(&objects);
    assert_eq!(doors.len(), 3);
    for (ordinal, door) in doors.into_iter().enumerate() {
        let pod = format!("pinkeeper-{ordinal}");
        assert_eq!(door["metadata"]["name"], format!("{pod}-swarm"));
        let spec = &door["spec"];
        assert_eq!(spec["type"], "NodePort");
        assert_eq!(spec["externalTrafficPolicy"], "Local");
        assert_eq!(spec["publishNotReadyAddresses"], true);
        assert_eq!(spec["selector"]["statefulset.kubernetes.io/pod-name"], pod);
        assert_eq!(spec["selector"]["app.kubernetes.io/instance"], "pinkeeper");
        let port = 30400 + ordinal;
        let expected = json!([
            {"name": "swarm", "protocol": "TCP", "port": 4001, "targetPort": "swarm", "nodePort": port},
            {"name": "swarm-udp", "protocol": "UDP", "port": 4001, "targetPort": "swarm-udp", "nodePort": port},
        ]);
        assert_eq!(spec["ports"], expected);
    }
    let objects = rendered(&[
        "peers=2",
        "swarm.service.type=LoadBalancer",
        "swarm.service.port=443",
        "swarm.service.protocols={TCP}",
        "swarm.service.externalTrafficPolicy=Cluster",
        r"swarm.service.annotations.external-dns\.alpha\.kubernetes\.io/hostname=p-{ordinal}.example",
    ]);
    let second = services(&objects)[1];
    let annotations = json!({"external-dns.alpha.kubernetes.io/hostname": "p-1.example"});
    assert_eq!(second["metadata"]["annotations"], annotations);
    assert_eq!(second["spec"]["externalTrafficPolicy"], "Cluster");
    let expected =
        json!([{"name": "swarm", "protocol": "TCP", "port": 443, "targetPort": "swarm"}]);
    assert_eq!(second["spec"]["ports"], expected);
    let host = rendered(&["swarm.hostPort=4001"]);
    let pod = &find(&host, "StatefulSet", "pinkeeper")["spec"]["template"]["spec"];
    let ports = container(pod, "kubo")["ports"].as_array().unwrap();
    assert!(ports.iter().all(|port| port["hostPort"] == 4001), "{ports:?}");
}

#[test]
fn daemons_announce_their_doors() {
    let cases: [(&[&str], &[&str]); 6] = [
        (&[], &[]),
        (
            &["swarm.hostPort=4444"],
            &[
                "/ip4/192.0.2.1/tcp/4444",
                "/ip6/2001:db8::1/tcp/4444",
                "/ip4/192.0.2.1/udp/4444/quic-v1",
                "/ip6/2001:db8::1/udp/4444/quic-v1",
            ],
        ),
        (
            &[
                "swarm.service.type=NodePort",
                "swarm.service.nodePorts={31000,31007,31002}",
                "kubo.swarmKey.secretName=k",
            ],
            &["/ip4/192.0.2.1/tcp/31007", "/ip6/2001:db8::1/tcp/31007"],
        ),
        (
            &[
                "swarm.service.type=LoadBalancer",
                "swarm.service.addresses={203.0.113.1,2001:db8::9,c.example}",
            ],
            &["/ip6/2001:db8::9/tcp/4001", "/ip6/2001:db8::9/udp/4001/quic-v1"],
        ),
        (
            &[
                "swarm.service.type=LoadBalancer",
                "swarm.service.port=443",
                "swarm.service.protocols={TCP}",
                "swarm.service.addresses[0]=p-{ordinal}.example",
                "swarm.announce[0]=/dns/other-{ordinal}.example/tcp/5",
            ],
            &["/dns/p-1.example/tcp/443", "/dns/other-1.example/tcp/5"],
        ),
        (&["swarm.announce={/ip4/192.0.2.7/tcp/1}"], &["/ip4/192.0.2.7/tcp/1"]),
    ];
    for (values, expected) in cases {
        assert_eq!(announced(values, "pinkeeper-1"), expected, "{values:?}");
    }
    let last = announced(&BASE, "pinkeeper-2");
    assert_eq!(last[0], "/ip4/192.0.2.1/tcp/30402");
    // The objects that the templates refer to exist.
    let objects = rendered(&BASE);
    let pod = &find(&objects, "StatefulSet", "pinkeeper")["spec"]["template"]["spec"];
    let environment = container(pod, "kubo")["env"].as_array().unwrap();
    let field = |name: &str| {
        let variable = environment.iter().find(|variable| variable["name"] == name).unwrap();
        variable["valueFrom"]["fieldRef"]["fieldPath"].clone()
    };
    assert_eq!(
        (field("NODE_IPS"), field("POD_NAME")),
        (json!("status.hostIPs"), json!("metadata.name"))
    );
}

#[test]
fn doors_that_cannot_be_announced_are_refused() {
    let cases = [
        ("swarm.service.type=NodePort", "nodePortBase"),
        ("swarm.service.type=NodePort,swarm.service.nodePorts={31000,31001}", "pod 2"),
        ("swarm.service.type=ClusterIP", "/swarm/service/type"),
        ("swarm.service.protocols={SCTP}", "/swarm/service/protocols/0"),
        ("swarm.service.addresses={a/b}", "/swarm/service/addresses/0"),
        ("swarm.announce={tcp}", "/swarm/announce/0"),
        ("swarm.hostPort=70000", "/swarm/hostPort"),
        ("ipFamilies={IPv5}", "/ipFamilies/0"),
        ("ipFamilyPolicy=Both", "/ipFamilyPolicy"),
    ];
    for (value, place) in cases {
        let chart = chart();
        let output = output(&tool("helm"), ["template", "x", &chart, "--set", value]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && said.contains(place), "{value}: {said}");
    }
}

#[test]
fn services_have_the_families_that_are_asked_for() {
    for service in rendered(&BASE).iter().filter(|o| o["kind"] == "Service") {
        assert!(service["spec"].get("ipFamilies").is_none(), "{service}");
        assert!(service["spec"].get("ipFamilyPolicy").is_none(), "{service}");
    }
    let families = ["ipFamilies={IPv6,IPv4}", "ipFamilyPolicy=RequireDualStack"];
    let objects = rendered(&[BASE, families].concat());
    let services = objects.iter().filter(|o| o["kind"] == "Service");
    let mut count = 0;
    for service in services {
        count += 1;
        assert_eq!(service["spec"]["ipFamilies"], json!(["IPv6", "IPv4"]), "{service}");
        assert_eq!(service["spec"]["ipFamilyPolicy"], "RequireDualStack", "{service}");
    }
    assert_eq!(count, 4);
    let pod = &find(&objects, "StatefulSet", "pinkeeper")["spec"]["template"]["spec"];
    assert!(container(pod, "pinkeeper")["env"].to_string().contains("status.podIPs"));
}
