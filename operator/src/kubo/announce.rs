//! Expands templates, which are the same for all pods, to the addresses that a daemon announces.
//! Pure.
//!
//! - `/{node}/tcp/4001` gives one address for each address of the pod's node.
//! - `{ordinal}` is the pod's number, and `{30400+ordinal}` adds it to 30400.
//! - `{a|b|c}` is the entry of the list at the pod's number.
//!
//! Invariant: a template without an entry for a pod gives that pod no address.

use std::net::IpAddr;

/// Location of a pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Place {
    /// Addresses of its node.
    pub(super) nodes: Vec<IpAddr>,
    /// Its number in the StatefulSet, if it is in one.
    pub(super) ordinal: Option<u16>,
}

/// The number at the end of a pod's name.
pub(super) fn ordinal(pod: &str) -> Option<u16> {
    pod.rsplit_once('-')?.1.parse().ok()
}

impl Place {
    /// Expands all templates.
    ///
    /// # Errors
    /// Names an invalid template.
    pub(super) fn addresses(&self, templates: &[String]) -> Result<Vec<String>, String> {
        let mut addresses = Vec::new();
        for template in templates {
            let expanded = self.expand(template);
            addresses.extend(expanded.ok_or_else(|| format!("{template} is invalid"))?);
        }
        Ok(addresses)
    }

    fn expand(&self, template: &str) -> Option<Vec<String>> {
        let Some((before, rest)) = template.split_once('{') else {
            return (!template.contains('}') && template.starts_with('/'))
                .then(|| vec![template.to_owned()]);
        };
        let (name, after) = rest.split_once('}')?;
        let mut addresses = Vec::new();
        for value in self.values(name)? {
            addresses.extend(self.expand(&format!("{before}{value}{after}"))?);
        }
        Some(addresses)
    }

    fn values(&self, name: &str) -> Option<Vec<String>> {
        if name == "node" {
            return Some(self.nodes.iter().map(host).collect());
        }
        let ordinal = self.ordinal?;
        if name == "ordinal" {
            return Some(vec![ordinal.to_string()]);
        }
        if let Some(first) = name.strip_suffix("+ordinal") {
            return Some(vec![first.parse::<u16>().ok()?.checked_add(ordinal)?.to_string()]);
        }
        let own = name.split('|').nth(ordinal.into()).filter(|own| !own.is_empty());
        Some(own.map(str::to_owned).into_iter().collect())
    }
}

fn host(address: &IpAddr) -> String {
    match address.to_canonical() {
        IpAddr::V4(address) => format!("ip4/{address}"),
        IpAddr::V6(address) => format!("ip6/{address}"),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn place(pod: &str) -> Place {
        let nodes = vec!["192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap()];
        Place { nodes, ordinal: ordinal(pod) }
    }

    #[test]
    fn templates_give_each_pod_its_addresses() {
        let cases: [(&str, &[&str]); 9] = [
            ("/ip4/203.0.113.1/tcp/4001", &["/ip4/203.0.113.1/tcp/4001"]),
            ("/{node}/tcp/4001", &["/ip4/192.0.2.1/tcp/4001", "/ip6/2001:db8::1/tcp/4001"]),
            (
                "/{node}/udp/{30400+ordinal}/quic-v1",
                &["/ip4/192.0.2.1/udp/30402/quic-v1", "/ip6/2001:db8::1/udp/30402/quic-v1"],
            ),
            ("/dns/p-{ordinal}.example.org/tcp/4001", &["/dns/p-2.example.org/tcp/4001"]),
            ("/ip4/203.0.113.1/tcp/{31000|31007|31002}", &["/ip4/203.0.113.1/tcp/31002"]),
            ("/{ip4/203.0.113.1|dns/b|ip6/2001:db8::9}/tcp/1", &["/ip6/2001:db8::9/tcp/1"]),
            ("/{ip4/203.0.113.1|dns/b}/tcp/1", &[]),
            ("/{ip4/203.0.113.1|dns/b|}/tcp/1", &[]),
            ("/{ip4/203.0.113.1}/tcp/1", &[]),
        ];
        for (template, expected) in cases {
            let found = place("pinkeeper-2").addresses(&[template.to_owned()]);
            assert_eq!(found.unwrap(), expected, "{template}");
        }
        let first = place("pinkeeper-0").addresses(&["/{ip4/203.0.113.1}/tcp/1".to_owned()]);
        assert_eq!(first.unwrap(), ["/ip4/203.0.113.1/tcp/1"]);
    }

    #[test]
    fn what_is_no_template_is_named() {
        let bad = ["", "x", "/{node", "/}", "/{65530+ordinal}", "/{x+ordinal}"];
        for template in bad {
            let error = place("pinkeeper-9").addresses(&[template.to_owned()]).unwrap_err();
            assert!(error.contains(template), "{error}");
        }
        let outside = Place { ordinal: ordinal("machine"), ..Place::default() };
        assert!(outside.addresses(&["/{ordinal}".to_owned()]).is_err());
        assert_eq!(outside.addresses(&["/{node}/tcp/1".to_owned()]).unwrap(), Vec::<String>::new());
    }
}
