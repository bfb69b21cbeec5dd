//! The Kubernetes side of Pinkeeper: object kinds, controllers, and the binary's commands.

#[cfg(test)]
mod any_json;
pub mod controller;
pub mod crd;
pub mod founding;
pub mod install;
pub mod kubernetes;
pub mod kubo;
pub mod process;
pub mod run;
pub mod secret;
