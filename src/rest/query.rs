//! Query parameters, parsed once. Pure.
//!
//! An empty parameter counts as absent, as in IPFS Cluster, whose client sends all of them.

use std::collections::{BTreeMap, BTreeSet};

use super::{error::ApiError, view::Status};
use crate::types::{Cid, ClaimName, ClaimOptions, Factor, Replication};

/// Most CIDs in one request.
const CIDS_MAX: usize = 1000;
/// Longest name of a pin, in characters.
const NAME_LEN_MAX: usize = 1024;

/// Unsupported options of IPFS Cluster, with the values that have no effect.
const NOT_SUPPORTED: [(&str, &[&str]); 7] = [
    ("shard-size", &["0"]),
    ("user-allocations", &[]),
    ("expire-at", &[]),
    ("expire-in", &[]),
    ("pin-update", &[]),
    ("origins", &[]),
    ("meta-", &[]),
];

/// Parameters by name, each once, without empty ones.
#[derive(Debug)]
pub(super) struct Parameters(BTreeMap<String, String>);

/// Parameters of `GET /pins`.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct ListQuery {
    /// Only this peer's status.
    pub(super) local: bool,
    /// Only pins with one of these statuses; all when empty.
    pub(super) filter: BTreeSet<Status>,
    /// Only these CIDs, in this order; all when empty.
    pub(super) cids: Vec<Cid>,
}

impl Parameters {
    pub(super) fn new(pairs: Vec<(String, String)>) -> Result<Self, ApiError> {
        let mut parameters = BTreeMap::new();
        for (name, value) in pairs {
            if parameters.contains_key(&name) {
                return Err(ApiError::bad_request(format!("parameter {name:?} is given twice")));
            }
            parameters.insert(name, value);
        }
        Ok(Self(parameters))
    }

    fn take(&mut self, name: &str) -> Option<String> {
        self.0.remove(name).filter(|value| !value.is_empty())
    }

    /// The CID in a line of `POST /pins`.
    pub(super) fn take_cid(&mut self) -> Result<Cid, ApiError> {
        match self.take("cid") {
            Some(cid) => parse_cid(&cid),
            None => Err(ApiError::bad_request("\"cid\" is missing")),
        }
    }

    fn take_flag(&mut self, name: &str) -> Result<bool, ApiError> {
        match self.take(name).as_deref() {
            None | Some("false") => Ok(false),
            Some("true") => Ok(true),
            Some(other) => Err(bad(name, other, "true or false")),
        }
    }

    /// Refuses parameters that are left.
    fn finish(self) -> Result<(), ApiError> {
        match self.0.keys().next() {
            None => Ok(()),
            Some(name) => Err(ApiError::bad_request(format!("parameter {name:?} is unknown"))),
        }
    }

    /// Refuses any parameter.
    pub(super) fn none(self) -> Result<(), ApiError> {
        self.finish()
    }

    /// For `GET /pins/{cid}` and `POST /ipfs/gc`: whether only this peer is asked.
    pub(super) fn local_only(mut self) -> Result<bool, ApiError> {
        let local = self.take_flag("local")?;
        self.finish().map(|()| local)
    }

    /// For `DELETE /peers/{id}`: whether the peer stays after all.
    pub(super) fn cancel(mut self) -> Result<bool, ApiError> {
        let cancel = self.take_flag("cancel")?;
        self.finish().map(|()| cancel)
    }

    /// For `GET /pins`.
    pub(super) fn list(mut self) -> Result<ListQuery, ApiError> {
        let local = self.take_flag("local")?;
        let filter = match self.take("filter") {
            Some(names) => filter(&names)?,
            None => BTreeSet::new(),
        };
        let cids = match self.take("cids") {
            Some(cids) => cids.split(',').map(parse_cid).collect::<Result<Vec<_>, _>>()?,
            None => Vec::new(),
        };
        if cids.len() > CIDS_MAX {
            let message = format!("{} cids given; at most {CIDS_MAX} are allowed", cids.len());
            return Err(ApiError::bad_request(message));
        }
        self.finish().map(|()| ListQuery { local, filter, cids })
    }

    /// For `POST /pins/{cid}` and a line of `POST /pins`; `default` applies to missing values.
    pub(super) fn pin(mut self, default: Replication) -> Result<ClaimOptions, ApiError> {
        let name = self.take("name").unwrap_or_default();
        if name.chars().count() > NAME_LEN_MAX {
            let message = format!("parameter \"name\" is longer than {NAME_LEN_MAX} characters");
            return Err(ApiError::bad_request(message));
        }
        match self.take("mode").as_deref() {
            None | Some("recursive") => {}
            Some(other) => {
                return Err(bad("mode", other, "recursive; other modes are not supported"));
            }
        }
        let both = self.take_factor("replication")?;
        let min = self.take_factor("replication-min")?;
        let max = self.take_factor("replication-max")?;
        if both.is_some() && (min.is_some() || max.is_some()) {
            let message = "parameter \"replication\" sets replication-min and replication-max; \
                           give either it or these two";
            return Err(ApiError::bad_request(message));
        }
        let replication = replication(both.or(min), both.or(max), default)?;
        for (name, neutral) in NOT_SUPPORTED {
            self.refuse_unless_neutral(name, neutral)?;
        }
        self.finish().map(|()| ClaimOptions {
            replication,
            retain: false,
            name: ClaimName::Given(name),
        })
    }

    fn take_factor(&mut self, name: &str) -> Result<Option<Factor>, ApiError> {
        let Some(text) = self.take(name) else { return Ok(None) };
        let expected = "-1 (every peer), 0 (the default) or a number of peers up to 65535";
        match text.parse::<i32>() {
            Ok(-1) => Ok(Some(Factor::Everywhere)),
            Ok(0) => Ok(None),
            Ok(number) => match u16::try_from(number) {
                Ok(count) => Ok(Some(Factor::Count(count))),
                Err(_) => Err(bad(name, &text, expected)),
            },
            Err(_) => Err(bad(name, &text, expected)),
        }
    }

    /// If `name` ends with a dash, it is a prefix.
    fn refuse_unless_neutral(&mut self, name: &str, neutral: &[&str]) -> Result<(), ApiError> {
        let matches =
            |given: &str| given == name || (name.ends_with('-') && given.starts_with(name));
        let asked = self.0.iter().find(|(given, value)| {
            matches(given) && !value.is_empty() && !neutral.contains(&value.as_str())
        });
        if let Some((given, _)) = asked {
            return Err(ApiError::bad_request(format!("parameter {given:?} is not supported")));
        }
        self.0.retain(|given, _| !matches(given));
        Ok(())
    }
}

fn bad(name: &str, value: &str, expected: &str) -> ApiError {
    let value: String = value.chars().take(80).collect();
    ApiError::bad_request(format!("parameter {name:?} is {value:?}; it must be {expected}"))
}

/// A CID in a path or parameter.
pub(super) fn parse_cid(text: &str) -> Result<Cid, ApiError> {
    text.parse().map_err(|error| ApiError::bad_request(format!("error decoding Cid: {error}")))
}

fn filter(names: &str) -> Result<BTreeSet<Status>, ApiError> {
    let mut statuses = BTreeSet::new();
    for name in names.split(',') {
        match Status::named(name.trim()) {
            Some(named) => statuses.extend(named),
            None => {
                return Err(bad("filter", name, &format!("one of {}", Status::NAMES.join(", "))));
            }
        }
    }
    Ok(statuses)
}

/// A missing value is the default, or the given value if the default contradicts it.
fn replication(
    min: Option<Factor>,
    max: Option<Factor>,
    default: Replication,
) -> Result<Replication, ApiError> {
    let replication = match (min, max) {
        (None, None) => default,
        (Some(min), None) => Replication { min, max: default.max.max(min) },
        (None, Some(max)) => Replication { min: default.min.min(max), max },
        (Some(min), Some(max)) => Replication { min, max },
    };
    if replication.min > replication.max {
        let Replication { min, max } = replication;
        let message = format!("replication-min ({min}) is larger than replication-max ({max})");
        return Err(ApiError::bad_request(message));
    }
    Ok(replication)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    const DEFAULT: Replication = Replication { min: Factor::Count(2), max: Factor::Count(3) };
    const CID: &str = "QmbWqxBEKC3P8tqsKc98xmWNzrzDtRLMiMPL8wBuTGsMnR";

    fn parameters(query: &str) -> Parameters {
        let pair = |part: &str| {
            let (name, value) = part.split_once('=').unwrap();
            (name.to_owned(), value.to_owned())
        };
        let pairs = query.split('&').filter(|part| !part.is_empty()).map(pair).collect();
        Parameters::new(pairs).unwrap()
    }

    fn factors(query: &str) -> (Factor, Factor) {
        let options = parameters(query).pin(DEFAULT).unwrap();
        (options.replication.min, options.replication.max)
    }

    #[test]
    fn what_the_original_client_sends_is_understood() {
        let query = "replication-min=0&replication-max=0&name=a b&mode=recursive&shard-size=0\
                     &user-allocations=&origins=";
        let options = parameters(query).pin(DEFAULT).unwrap();
        assert_eq!(options.replication, DEFAULT);
        assert_eq!(options.name, ClaimName::Given("a b".to_owned()));
        let list = parameters("local=false&filter=&cids=").list().unwrap();
        assert_eq!(list, ListQuery::default());
        assert!(parameters("local=true").list().unwrap().local);
    }

    #[test]
    fn factors_follow_each_other_where_one_is_not_said() {
        assert_eq!(factors(""), (Factor::Count(2), Factor::Count(3)));
        assert_eq!(factors("replication=1"), (Factor::Count(1), Factor::Count(1)));
        assert_eq!(factors("replication=-1"), (Factor::Everywhere, Factor::Everywhere));
        assert_eq!(factors("replication-max=1"), (Factor::Count(1), Factor::Count(1)));
        assert_eq!(factors("replication-min=5"), (Factor::Count(5), Factor::Count(5)));
        assert_eq!(factors("replication-min=1"), (Factor::Count(1), Factor::Count(3)));
        assert_eq!(factors("replication-max=-1"), (Factor::Count(2), Factor::Everywhere));
    }

    #[test]
    fn what_is_not_done_is_refused_by_name() {
        let cases = [
            ("replication=x", "replication"),
            ("replication=-2", "replication"),
            ("replication=70000", "replication"),
            ("replication-min=3&replication-max=2", "larger"),
            ("replication=2&replication-max=2", "give either it or these two"),
            ("mode=direct", "mode"),
            ("mode=Recursive", "mode"),
            ("shard-size=5", "shard-size"),
            ("meta-a=b", "meta-a"),
            ("expire-in=1h", "expire-in"),
            ("replicas=2", "unknown"),
        ];
        for (query, word) in cases {
            let error = parameters(query).pin(DEFAULT).unwrap_err();
            assert!(error.message().contains(word), "{query}: {error:?}");
        }
        let long = format!("name={}", "x".repeat(NAME_LEN_MAX + 1));
        assert!(parameters(&long).pin(DEFAULT).is_err());
        for query in ["local=1", "filter=done", "cids=x", "cid=x", "filter=pinned,,"] {
            assert!(parameters(query).list().is_err(), "{query}");
        }
        let many = format!("cids={}", vec![CID; CIDS_MAX + 1].join(","));
        assert!(parameters(&many).list().unwrap_err().message().contains("at most"));
        let twice = vec![("a".to_owned(), String::new()), ("a".to_owned(), String::new())];
        assert!(Parameters::new(twice).unwrap_err().message().contains("twice"));
    }

    #[test]
    fn filters_name_statuses_and_groups_of_them() {
        let list = parameters("filter=pinned,error,queued").list().unwrap();
        let expected = [
            Status::Pinned,
            Status::ClusterError,
            Status::PinError,
            Status::UnpinError,
            Status::PinQueued,
            Status::UnpinQueued,
        ];
        assert_eq!(list.filter, BTreeSet::from(expected));
    }
}
