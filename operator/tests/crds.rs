//! The definitions of the kinds: committed as generated, and within Kubernetes' API conventions.

#![allow(clippy::unwrap_used)]

mod common;

use std::{fs, process::Command};

use pinkeeper_operator::crd::{self, definitions, yaml};
use serde_json::Value;

#[test]
fn committed_files_are_the_generated_ones() {
    for definition in definitions() {
        let text = yaml(&definition).unwrap();
        let name = format!("{}.yaml", definition["spec"]["names"]["plural"].as_str().unwrap());
        common::generated(&format!("crds/{name}"), &text);
        // A chart cannot read files outside of its folder, so it has its own copy.
        common::generated(&format!("charts/pinkeeper/files/crds/{name}"), &text);
    }
}

#[test]
fn the_command_prints_the_committed_files() {
    let printed = Command::new(env!("CARGO_BIN_EXE_pinkeeper")).arg("crds").output().unwrap();
    let files = ["crds/pins.yaml", "crds/clusterpeers.yaml"]
        .map(|path| fs::read_to_string(common::repository().join(path)).unwrap());
    assert!(printed.status.success());
    assert_eq!(String::from_utf8(printed.stdout).unwrap(), files.concat());
}

#[test]
fn yaml_says_what_the_types_say() {
    for definition in definitions() {
        let text = yaml(&definition).unwrap();
        assert_eq!(serde_saphyr::from_str::<Value>(&text).unwrap(), definition);
    }
}

#[test]
fn kinds_have_what_people_and_tools_look_for() {
    let [pin, peer] = definitions();
    for (definition, short) in [(&pin, "ipfspin"), (&peer, "ipfspeer")] {
        assert_eq!(definition["spec"]["group"], crd::GROUP);
        assert_eq!(definition["spec"]["scope"], "Namespaced");
        assert_eq!(definition["spec"]["names"]["shortNames"], serde_json::json!([short]));
        assert_eq!(definition["spec"]["names"]["categories"], serde_json::json!(["ipfs"]));
    }
    assert_eq!(
        columns(&pin, false),
        ["CID", "READY", "STATUS", "REPLICAS", "AGE"],
        "kubectl get pins"
    );
    assert_eq!(columns(&pin, true), ["POLICY", "MESSAGE"]);
    assert_eq!(
        columns(&peer, false),
        ["READY", "ROLE", "VERSION", "DAEMON", "FREE", "PINS", "AGE"],
        "kubectl get clusterpeers"
    );
}

fn columns(definition: &Value, wide: bool) -> Vec<&str> {
    version(definition)["additionalPrinterColumns"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|column| (column["priority"].as_i64().unwrap_or(0) > 0) == wide)
        .map(|column| column["name"].as_str().unwrap())
        .collect()
}

fn version(definition: &Value) -> &Value {
    &definition["spec"]["versions"][0]
}

// What follows holds the schemas against the rules that kube-api-linter applies to Kubernetes' own
// kinds by default, as far as they show in a schema.

#[test]
fn schemas_follow_the_api_conventions() {
    let mut complaints = Vec::new();
    for definition in definitions() {
        let kind = definition["spec"]["names"]["kind"].as_str().unwrap();
        let root = &version(&definition)["schema"]["openAPIV3Schema"];
        lint(kind, None, root, &mut complaints);
        lint_status(kind, &root["properties"]["status"], &mut complaints);
    }
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
}

#[test]
fn the_lint_finds_what_it_looks_for() {
    let bad = serde_json::json!({
        "type": "object",
        "properties": {
            "a": {"type": "string", "nullable": true},
            "b": {"type": "array", "items": {"type": "number"}},
            "c": {"type": "integer", "format": "uint16", "minimum": 0.5},
            "phase": {"type": "string", "maxLength": 1, "description": "phase is phase."},
            "free_space": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
            "timeout": {"type": "string", "format": "duration"},
        }
    });
    let mut complaints = Vec::new();
    lint("Bad", None, &bad, &mut complaints);
    for word in [
        "description",
        "nullable",
        "maxLength",
        "maxItems",
        "listType",
        "float",
        "int32",
        "phase",
        "camelCase",
        "unknown fields",
        "duration",
        "whole number",
    ] {
        assert!(complaints.iter().any(|c| c.contains(word)), "{word}: {complaints:?}");
    }
}

fn lint(path: &str, field: Option<&str>, schema: &Value, complaints: &mut Vec<String>) {
    let mut complain = |what: &str| complaints.push(format!("{path}: {what}"));
    if let Some(field) = field {
        let description = schema["description"].as_str().unwrap_or_default();
        if !description.starts_with(&format!("{field} ")) {
            complain("its description does not begin with its name");
        }
        if field == "phase" {
            complain("conditions are used, not a phase");
        }
        if !field.chars().all(char::is_alphanumeric) || field.starts_with(char::is_uppercase) {
            complain("its name is not in camelCase");
        }
    }
    if schema.get("nullable").is_some() {
        complain("it is nullable");
    }
    if schema.get("x-kubernetes-preserve-unknown-fields").is_some()
        || schema.get("additionalProperties").is_some()
    {
        complain("it takes unknown fields");
    }
    lint_type(schema, &mut complain);
    for (name, child) in schema["properties"].as_object().into_iter().flatten() {
        // The linter is about the fields of types; apiVersion, kind and metadata are not ours.
        lint(&format!("{path}.{name}"), Some(name), child, complaints);
    }
    if let Some(items) = schema.get("items") {
        lint(&format!("{path}[]"), None, items, complaints);
    }
}

fn lint_type(schema: &Value, complain: &mut impl FnMut(&str)) {
    match schema["type"].as_str() {
        Some("string") => {
            let timed = schema["format"] == "date-time";
            if schema["format"] == "duration" {
                complain("it is a duration; use a number whose name says the unit");
            }
            if !timed && schema.get("maxLength").is_none() && schema.get("enum").is_none() {
                complain("a string without maxLength");
            }
        }
        Some("array") => {
            if schema.get("maxItems").is_none() {
                complain("a list without maxItems");
            }
            match schema["x-kubernetes-list-type"].as_str() {
                Some("map") if schema["x-kubernetes-list-map-keys"].is_array() => {}
                Some("atomic" | "set") if schema["items"]["type"] != "object" => {}
                _ => complain("a list without a fitting listType"),
            }
        }
        Some("integer") => {
            if schema["format"] != "int32" && schema["format"] != "int64" {
                complain("a number that is neither int32 nor int64");
            }
            for bound in ["minimum", "maximum"] {
                if schema.get(bound).is_some_and(|b| b.as_i64().is_none()) {
                    complain("a bound that is not a whole number");
                }
            }
        }
        Some("number") => complain("a float"),
        Some("object" | "boolean") => {}
        _ => complain("no known type"),
    }
}

fn lint_status(kind: &str, status: &Value, complaints: &mut Vec<String>) {
    let conditions = &status["properties"]["conditions"];
    let keys = &conditions["x-kubernetes-list-map-keys"];
    if keys != &serde_json::json!(["type"]) {
        complaints.push(format!("{kind}: conditions are not a map by type"));
    }
    let required = &conditions["items"]["required"];
    if required != &serde_json::json!(["lastTransitionTime", "message", "reason", "status", "type"])
    {
        complaints.push(format!("{kind}: a condition is not metav1's"));
    }
    if status.get("required").is_some() {
        complaints
            .push(format!("{kind}: a status field is required, so none could be added later"));
    }
}
