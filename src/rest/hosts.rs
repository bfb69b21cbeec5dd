//! The host names that the API accepts, so that no web page can use it through a person's browser.
//!
//! A browser sends in `Host` the name it was told to open, and in `Origin` the site of the page. A
//! foreign page can point its own name at this address, or send requests whose answers it cannot read.
//! Invariant: a request passes only if its `Host` belongs to this API and its `Origin`, if any, does
//! too.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use axum::{
    extract::{Request, State},
    http::{HeaderMap, StatusCode, Uri, header, uri::Authority},
    middleware::Next,
    response::{IntoResponse as _, Response},
};

use super::error::ApiError;

/// The names and addresses of one API.
#[derive(Clone, Debug)]
pub struct Hosts {
    listen: IpAddr,
    names: Arc<BTreeSet<String>>,
}

impl Hosts {
    /// Loopback, the listen address, and `names`: host names in lower case, without a port.
    #[must_use]
    pub fn new(listen: SocketAddr, names: impl IntoIterator<Item = String>) -> Self {
        Self { listen: listen.ip().to_canonical(), names: Arc::new(names.into_iter().collect()) }
    }

    /// Whether a host is this API. An address cannot be redirected by a foreign page: if the API
    /// listens on all addresses, any address counts.
    fn knows(&self, host: &str) -> bool {
        if self.is_named(host) {
            return true;
        }
        match host.parse::<IpAddr>().map(|address| address.to_canonical()) {
            Ok(address) => {
                address.is_loopback() || self.listen.is_unspecified() || address == self.listen
            }
            Err(_) => host == "localhost",
        }
    }

    fn is_named(&self, host: &str) -> bool {
        self.names.contains(host)
    }

    /// Why a request is refused, if it is.
    fn refusal(&self, uri: &Uri, headers: &HeaderMap) -> Option<String> {
        let mut hosts = headers.get_all(header::HOST).iter();
        let (Some(given), None) = (hosts.next(), hosts.next()) else {
            return Some("a request needs one Host header".to_owned());
        };
        let authority = given.to_str().ok().and_then(|text| text.parse::<Authority>().ok());
        let Some(authority) = authority else {
            return Some(format!("the Host header {given:?} is not understood"));
        };
        // A URI may also name a host, as in requests to a proxy.
        let named = [Some(&authority), uri.authority()].into_iter().flatten();
        if let Some(unknown) = named.map(host_of).find(|host| !self.knows(host)) {
            return Some(format!("this API is not known as {unknown:?}; {}", to_do(&unknown)));
        }
        let mut origins = headers.get_all(header::ORIGIN).iter();
        origins.find_map(|origin| self.origin_refusal(origin.to_str().ok()?, &authority))
    }

    fn origin_refusal(&self, origin: &str, own: &Authority) -> Option<String> {
        let uri = origin.parse::<Uri>().ok();
        match uri.as_ref().filter(|uri| uri.scheme().is_some()).and_then(Uri::authority) {
            Some(authority) if authority == own || self.is_named(&host_of(authority)) => None,
            Some(authority) => Some(format!(
                "a web page of {origin:?} must not use this API; {}",
                to_do(&host_of(authority))
            )),
            None => Some(format!("a web page of {origin:?} must not use this API")),
        }
    }
}

/// The host of an authority in comparable form: in lower case, an address in its shortest form.
fn host_of(authority: &Authority) -> String {
    let host = authority.host().to_ascii_lowercase();
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let bare = bare.unwrap_or_else(|| host.strip_suffix('.').unwrap_or(&host));
    let address = bare.parse::<IpAddr>().map(|address| address.to_canonical().to_string());
    address.unwrap_or_else(|_| bare.to_owned())
}

fn to_do(host: &str) -> String {
    format!(
        "if it should be, put {host:?} into rest_hosts (config file, --rest-hosts, or PINKEEPER_REST_HOSTS; \
         rest.hosts in the chart)"
    )
}

/// Refuses requests that a foreign page may have sent. `/health` is exempt: it reveals and changes
/// nothing.
pub(super) async fn check(State(hosts): State<Hosts>, request: Request, next: Next) -> Response {
    if request.uri().path() != "/health"
        && let Some(reason) = hosts.refusal(request.uri(), request.headers())
    {
        return ApiError::new(StatusCode::FORBIDDEN, reason).into_response();
    }
    next.run(request).await
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use axum::http::HeaderValue;

    use super::*;

    fn refusal(listen: &str, host: &str, origin: Option<&str>) -> Option<String> {
        let names = ["pins.example.org".to_owned()];
        let mut headers = HeaderMap::new();
        headers.insert(header::HOST, HeaderValue::from_str(host).unwrap());
        if let Some(origin) = origin {
            headers.insert(header::ORIGIN, HeaderValue::from_str(origin).unwrap());
        }
        Hosts::new(listen.parse().unwrap(), names).refusal(&Uri::from_static("/pins"), &headers)
    }

    #[test]
    fn only_hosts_that_are_this_api_pass() {
        let (loopback, own, any) = ("127.0.0.1:9094", "10.0.0.5:9094", "[::]:9094");
        let cases = [
            (loopback, "localhost:9094", true),
            (loopback, "LocalHost.", true),
            (loopback, "127.0.0.1:12345", true),
            (loopback, "127.9.9.9", true),
            (loopback, "[::1]:9094", true),
            (loopback, "pins.example.org", true),
            (loopback, "pins.example.org:443", true),
            (loopback, "evil.example", false),
            (loopback, "localhost.evil.example", false),
            (loopback, "x.pins.example.org", false),
            (loopback, "10.0.0.5:9094", false),
            (loopback, "a b", false),
            (loopback, "", false),
            (own, "10.0.0.5:9094", true),
            (own, "[::ffff:10.0.0.5]:9094", true),
            (own, "10.0.0.6:9094", false),
            (any, "192.0.2.9", true),
            (any, "evil.example", false),
        ];
        for (listen, host, passes) in cases {
            let refusal = refusal(listen, host, None);
            assert_eq!(refusal.is_none(), passes, "{listen}, {host}: {refusal:?}");
        }
        let told = refusal(loopback, "evil.example", None).unwrap();
        assert!(told.contains("\"evil.example\" into rest_hosts"), "{told}");
    }

    #[test]
    fn only_pages_of_this_api_pass() {
        let cases = [
            ("localhost:9094", "http://localhost:9094", true),
            ("LOCALHOST:9094", "http://localhost:9094", true),
            ("localhost:9094", "https://pins.example.org", true),
            ("localhost:9094", "http://localhost:3000", false),
            ("localhost:9094", "http://127.0.0.1:9094", false),
            ("localhost:9094", "https://evil.example", false),
            ("localhost:9094", "null", false),
            ("localhost:9094", "", false),
            ("pins.example.org", "https://pins.example.org", true),
        ];
        for (host, origin, passes) in cases {
            let refusal = refusal("127.0.0.1:9094", host, Some(origin));
            assert_eq!(refusal.is_none(), passes, "{host}, {origin}: {refusal:?}");
        }
    }

    #[test]
    fn a_request_names_one_host_wherever_it_does() {
        let hosts = Hosts::new("127.0.0.1:9094".parse().unwrap(), []);
        let mut headers = HeaderMap::new();
        assert!(hosts.refusal(&Uri::from_static("/pins"), &headers).is_some());
        headers.append(header::HOST, HeaderValue::from_static("localhost"));
        assert_eq!(hosts.refusal(&Uri::from_static("http://127.0.0.1/pins"), &headers), None);
        assert!(hosts.refusal(&Uri::from_static("http://evil.example/pins"), &headers).is_some());
        headers.append(header::HOST, HeaderValue::from_static("localhost"));
        assert!(hosts.refusal(&Uri::from_static("/pins"), &headers).is_some());
    }
}
