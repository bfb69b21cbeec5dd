//! Creates the Secret with the cluster's shared key, once.
//!
//! Peers prove to each other that they have this key before anything else; it admits to the
//! cluster. It is generated here and not in the chart, whose renderings must be equal and contain
//! no secret. This needs only the permission to create Secrets, not to read or change one.

use std::collections::BTreeMap;

use k8s_openapi::{ByteString, api::core::v1::Secret};
use kube::{
    Api, Client,
    api::{ObjectMeta, PostParams},
};
use rand::{TryRng, rngs::SysRng};

/// The key of the Secret's data that holds the shared key, 64 hexadecimal characters.
pub const KEY: &str = "cluster-secret";

/// Annotations that keep GitOps tools (Argo CD, Flux) from deleting the Secret because it is in no
/// repository.
const NEVER_PRUNE: [(&str, &str); 2] = [
    ("argocd.argoproj.io/sync-options", "Prune=false"),
    ("kustomize.toolkit.fluxcd.io/prune", "disabled"),
];

/// Bytes of the shared key, as in IPFS Cluster and in libp2p's private networks.
const SECRET_LEN: usize = 32;

/// The Secret to create.
#[derive(Clone, Debug, PartialEq, Eq, clap::Args)]
pub struct Args {
    /// The Secret's name
    #[arg(long)]
    pub name: String,
    /// The Secret's namespace
    #[arg(long, env = "POD_NAMESPACE")]
    pub namespace: String,
    /// A label for the Secret, as key=value; may be repeated
    #[arg(long = "label", value_parser = label)]
    pub labels: Vec<(String, String)>,
}

/// Result of the command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The Secret was created.
    Created,
    /// The Secret existed and was not changed.
    Kept,
}

/// Why the Secret was not created. The texts are complete; there is no source to print.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SecretError {
    /// No API server is configured.
    #[error("no Kubernetes to talk to: {0}")]
    Config(String),
    /// The API server refused or did not answer.
    #[error("cannot create the Secret: {0}")]
    Kubernetes(String),
    /// The operating system provided no randomness.
    #[error("no randomness from the operating system: {0}")]
    Randomness(String),
}

impl From<kube::Error> for SecretError {
    fn from(error: kube::Error) -> Self {
        match error {
            // The error's own text repeats the whole answer several times.
            kube::Error::Api(status) => Self::Kubernetes(status.message),
            other => Self::Kubernetes(other.to_string()),
        }
    }
}

/// Creates the Secret that `args` names, with a new key. An existing Secret is kept.
///
/// # Errors
/// When no API server is configured, or it fails or does not answer.
pub async fn make(args: &Args) -> Result<Outcome, SecretError> {
    // `Config::infer` reports why there is no configuration; `Client::try_default` hides it.
    let config = kube::Config::infer().await.map_err(|e| SecretError::Config(e.to_string()))?;
    let client = Client::try_from(config)?;
    create(client, args).await
}

/// As [`make`], with a given client.
///
/// # Errors
/// When the API server fails or does not answer.
pub async fn create(client: Client, args: &Args) -> Result<Outcome, SecretError> {
    let mut bytes = [0; SECRET_LEN];
    SysRng.try_fill_bytes(&mut bytes).map_err(|e| SecretError::Randomness(e.to_string()))?;
    let secrets: Api<Secret> = Api::namespaced(client, &args.namespace);
    match secrets.create(&PostParams::default(), &secret(args, bytes)).await {
        Ok(_) => Ok(Outcome::Created),
        Err(kube::Error::Api(status)) if status.is_already_exists() => Ok(Outcome::Kept),
        Err(error) => Err(match error.into() {
            SecretError::Kubernetes(message) => SecretError::Kubernetes(without(message, bytes)),
            other => other,
        }),
    }
}

/// The message without the shared key: an admission webhook may repeat the object that it refuses.
fn without(message: String, bytes: [u8; SECRET_LEN]) -> String {
    let text = hex::encode(bytes);
    let stored = serde_json::to_string(&ByteString(text.clone().into_bytes())).unwrap_or_default();
    [text.as_str(), stored.trim_matches('"')]
        .iter()
        .filter(|form| !form.is_empty())
        .fold(message, |message, form| message.replace(form, "(the key)"))
}

fn secret(args: &Args, bytes: [u8; SECRET_LEN]) -> Secret {
    let text = ByteString(hex::encode(bytes).into_bytes());
    Secret {
        metadata: ObjectMeta {
            name: Some(args.name.clone()),
            namespace: Some(args.namespace.clone()),
            labels: Some(args.labels.iter().cloned().collect()),
            annotations: Some(NEVER_PRUNE.map(|(key, value)| (key.into(), value.into())).into()),
            ..ObjectMeta::default()
        },
        type_: Some("Opaque".into()),
        immutable: Some(true),
        data: Some(BTreeMap::from([(KEY.into(), text)])),
        ..Secret::default()
    }
}

fn label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.into(), value.into())),
        _ => Err("expected key=value".into()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn no_error_repeats_the_key() {
        let bytes = [0xa5; SECRET_LEN];
        let (plain, stored) = ("a5".repeat(32), "YTVhNWE1".repeat(10) + "YTVhNQ==");
        let object = serde_json::to_string(&ByteString(plain.clone().into_bytes())).unwrap();
        assert_eq!(object, format!("\"{stored}\""));
        let message = format!("denied: {plain}, {{\"cluster-secret\": \"{stored}\"}}");
        let expected = "denied: (the key), {\"cluster-secret\": \"(the key)\"}";
        assert_eq!(without(message, bytes), expected);
        assert_eq!(without("denied".to_owned(), bytes), "denied");
    }

    #[test]
    fn the_secret_holds_64_hexadecimal_characters_and_cannot_be_changed() {
        let args = Args {
            name: "a".into(),
            namespace: "b".into(),
            labels: vec![label("app.kubernetes.io/name=pinkeeper").unwrap()],
        };
        let secret = secret(&args, [0xa5; SECRET_LEN]);
        let text = String::from_utf8(secret.data.unwrap()[KEY].0.clone()).unwrap();
        assert_eq!(text, "a5".repeat(32));
        assert_eq!(secret.immutable, Some(true));
        assert_eq!(secret.metadata.labels.unwrap()["app.kubernetes.io/name"], "pinkeeper");
        let annotations = secret.metadata.annotations.unwrap();
        assert_eq!(annotations["argocd.argoproj.io/sync-options"], "Prune=false");
        assert_eq!(annotations["kustomize.toolkit.fluxcd.io/prune"], "disabled");
    }

    #[test]
    fn a_label_needs_a_key_and_a_value() {
        assert!(label("x").is_err());
        assert!(label("=x").is_err());
        assert_eq!(label("x=").unwrap(), ("x".into(), String::new()));
    }
}
