//! Arbitrary JSON, for tests of code that reads objects.

use proptest::{collection::vec, prelude::*, sample::select};
use serde_json::{Map, Value};

/// Any value; some texts are such as occur in objects.
pub(crate) fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        (-3_i64..300).prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        text().prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 24, 5, |inner| {
        let list = vec(inner.clone(), 0..5).prop_map(Value::from);
        let object = vec((text(), inner), 0..5);
        prop_oneof![list, object.prop_map(Value::from_iter)]
    })
}

/// Any text, or one that has a meaning somewhere.
pub(crate) fn text() -> impl Strategy<Value = String> {
    let known = select(vec![
        "bafybeigdyrzt5sfp7udm7hu76uh7y26nf3efuylqabf3oclgtqy55fbzdi",
        "12D3KooWEyoppNCUx8Yx66oV9fJnriXwCcXwDDUA2kj6vnc6iDEp",
        "00112233445566778899aabbccddeeff",
        "2026-01-02T03:04:05Z",
        "Retain",
        "Pinned",
        "Ready",
        "True",
        "true",
        "3",
    ]);
    prop_oneof![known.prop_map(str::to_owned), ".{0,12}"]
}

/// A valid object; or one with some fields replaced; or one with only some fields; or any value.
pub(crate) fn like(sound: Value) -> impl Strategy<Value = Value> {
    let fields = sound.as_object().cloned().unwrap_or_default();
    let names: Vec<String> = fields.keys().cloned().chain(["ofANewerVersion".to_owned()]).collect();
    let changed = vec((select(names), value()), 0..3);
    let object = (prop::bool::weighted(0.8), changed).prop_map(move |(is_whole, changed)| {
        let mut all = if is_whole { fields.clone() } else { Map::new() };
        all.extend(changed);
        Value::Object(all)
    });
    prop_oneof![9 => object, 1 => value()]
}

/// Metadata as from the API server: `required` is always there, other fields are optional.
pub(crate) fn metadata(required: Value) -> impl Strategy<Value = Value> {
    let texts = || vec((text(), text().prop_map(Value::from)), 0..3).prop_map(Value::from_iter);
    let managed = value().prop_map(|fields| Value::from_iter([("fieldsV1", fields)]));
    let field = prop_oneof![
        any::<i64>().prop_map(|number| ("generation", Value::from(number))),
        texts().prop_map(|texts| ("labels", texts)),
        texts().prop_map(|texts| ("annotations", texts)),
        Just(("deletionTimestamp", Value::from("2026-01-02T03:04:05Z"))),
        vec(text(), 0..3).prop_map(|texts| ("finalizers", Value::from(texts))),
        vec(managed, 0..2).prop_map(|managed| ("managedFields", Value::from(managed))),
        value().prop_map(|value| ("ofANewerVersion", value)),
    ];
    vec(field, 0..5).prop_map(move |fields| {
        let mut all = Map::from_iter(fields.into_iter().map(|(name, of)| (name.to_owned(), of)));
        all.extend(required.as_object().cloned().unwrap_or_default());
        Value::Object(all)
    })
}
