//! Output and exit codes of the binary, as far as they need neither a peer nor Kubernetes.

#![allow(clippy::unwrap_used)]

use std::process::{Command, Output};

fn pinkeeper(args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pinkeeper"));
    // Without the kubeconfig of the person who runs the tests, and without a pod's environment.
    command.args(args).env_clear().env("KUBECONFIG", "/nowhere/kubeconfig").output().unwrap()
}

/// The exit code and the output on standard error.
fn failure(args: &[&str]) -> (i32, String) {
    let output = pinkeeper(args);
    assert!(output.stdout.is_empty(), "{args:?} said something on standard output");
    (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
}

#[test]
fn a_wrong_command_line_is_code_2() {
    for args in [&["nonsense"][..], &["make-secret"], &["crds", "more"], &["install"]] {
        let (code, said) = failure(args);
        assert_eq!(code, 2, "{args:?}: {said}");
        assert!(said.starts_with("error: "), "{args:?}: {said}");
    }
}

#[test]
fn a_missing_configuration_is_one_line_and_code_2() {
    let (code, said) = failure(&["make-secret", "--name=a", "--namespace=b"]);
    assert_eq!(code, 2, "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
    assert!(said.starts_with("error: no Kubernetes to talk to: "), "{said}");
}

#[test]
fn what_did_not_work_is_one_line_and_code_1() {
    let (code, said) = failure(&["install", "/nowhere/at/all"]);
    assert_eq!(code, 1, "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
    assert!(said.contains("/nowhere/at/all: No such file or directory"), "{said}");
}

#[test]
fn the_version_is_the_chart_s_default() {
    let said = String::from_utf8(pinkeeper(&["--version"]).stdout).unwrap();
    let chart = include_str!("../../charts/pinkeeper/Chart.yaml");
    let version = said.trim().strip_prefix("pinkeeper ").unwrap();
    assert!(chart.contains(&format!("\nappVersion: {version}\n")), "{version}");
}
