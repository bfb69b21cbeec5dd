//! Logs and Prometheus metrics of the process.
//!
//! Each part has and registers its own metrics; this module has only the shared parts. Logs go to
//! standard error, as text or as one JSON object per line.

use std::str::FromStr;

use prometheus_client::{encoding::text, metrics::info::Info, registry::Registry};
use serde::Deserialize;
use tracing_subscriber::EnvFilter;

/// The content type of [`encode`]'s text.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The commit of the build, set by `make release`.
pub const COMMIT: &str = match option_env!("PINKEEPER_COMMIT") {
    Some(commit) => commit,
    None => "development",
};

/// Format of log lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// For machines.
    Json,
}

/// A log level, or levels by module as in `info,pinkeeper::rpc=debug`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct LogFilter(String);

impl Default for LogFilter {
    fn default() -> Self {
        Self("info".to_owned())
    }
}

impl LogFilter {
    /// A level alone applies to Pinkeeper: libraries log warnings only. openraft warns at every failed
    /// attempt to reach a peer, and our own parts already log what people need. Naming openraft in the
    /// filter shows more.
    fn directives(&self) -> String {
        let own = match self.0.as_str() {
            level if level.contains([',', '=']) => self.0.clone(),
            "off" => return self.0.clone(),
            "error" => "error".to_owned(),
            level => format!("warn,pinkeeper={level},pinkeeper_operator={level}"),
        };
        if self.0.contains("openraft") { own } else { format!("{own},openraft=error") }
    }
}

impl TryFrom<String> for LogFilter {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        // The parser panics on some non-ASCII letters, which no module name contains.
        if !text.is_ascii() {
            return Err(format!("{text:?} is not a log level or filter: it is not ASCII"));
        }
        match EnvFilter::try_new(&text) {
            Ok(_) => Ok(Self(text)),
            Err(error) => Err(format!("{text:?} is not a log level or filter: {error}")),
        }
    }
}

impl FromStr for LogFilter {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::try_from(text.to_owned())
    }
}

/// The log of the process is already set up.
#[derive(Debug, thiserror::Error)]
#[error("the log is already set up")]
pub struct LogError;

/// Sets up the log of the process.
///
/// # Errors
/// When it was already set up.
pub fn log_to_stderr(filter: &LogFilter, format: LogFormat) -> Result<(), LogError> {
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::new(filter.directives()))
        .with_writer(std::io::stderr);
    match format {
        LogFormat::Text => subscriber.with_ansi(false).try_init(),
        LogFormat::Json => subscriber.json().flatten_event(true).try_init(),
    }
    .map_err(|_| LogError)
}

/// A registry with the prefix `pinkeeper_` for all metrics, and with the version.
#[must_use]
pub fn registry() -> Registry {
    let mut registry = Registry::with_prefix("pinkeeper");
    let version = Info::new([("version", env!("CARGO_PKG_VERSION")), ("commit", COMMIT)]);
    registry.register("build", "The running version", version);
    registry
}

/// Encodes the metrics of all these registries as one OpenMetrics text.
///
/// # Errors
/// When a metric cannot be encoded.
pub fn encode(registries: &[&Registry]) -> Result<String, std::fmt::Error> {
    let mut body = String::new();
    for registry in registries {
        text::encode_registry(&mut body, registry)?;
    }
    text::encode_eof(&mut body).map(|()| body)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn the_version_is_shown_and_bad_filters_are_refused() {
        let body = encode(&[&registry()]).unwrap();
        let build = "pinkeeper_build_info{version=\"0.1.0\",commit=\"";
        assert!(body.contains(build), "{body}");
        assert!(body.ends_with("# EOF\n"), "{body}");
        assert!("info,pinkeeper::rpc=debug".parse::<LogFilter>().is_ok());
        let directives = |text: &str| text.parse::<LogFilter>().unwrap().directives();
        let table = [
            ("info", "warn,pinkeeper=info,pinkeeper_operator=info,openraft=error"),
            ("debug", "warn,pinkeeper=debug,pinkeeper_operator=debug,openraft=error"),
            ("error", "error,openraft=error"),
            ("off", "off"),
            ("info,libp2p=debug", "info,libp2p=debug,openraft=error"),
            ("warn,openraft=info", "warn,openraft=info"),
        ];
        for (given, expected) in table {
            assert_eq!(directives(given), expected, "{given}");
        }
        assert!("info,pinkeeper=loud".parse::<LogFilter>().unwrap_err().contains("loud"));
    }
}
