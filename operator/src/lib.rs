//! The Kubernetes side of Pinkeeper and the commands of the binary `pinkeeper`.

pub mod kubo;
