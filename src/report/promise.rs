//! What a version of `run.json` promises, as lines of text, and what may change from one version to the next: the tests that
//! hold CONTRIBUTING.md, "Versions". `docs/run-MAJOR.MINOR.txt` has the lines of each version that there was.

use super::SCHEMA_VERSION;
use super::json;
use rstest::rstest;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

type Promise = BTreeSet<String>;

/// A line for each field (`cases[].cause? string|null`; `?` where it may be absent), element (`[]`, `[0]`), value of a map (`.*`)
/// and word of a closed list (`cases[].verdict = pass`).
///
/// # Panics
/// At a keyword that this function does not know: it would else be left out of the promise without a word.
fn promise(schema: &Value) -> Promise {
    let mut lines = Promise::new();
    walk(schema, schema, "", &mut lines);
    lines
}

/// Adds the lines below a schema, and returns the types that the schema itself lets through.
fn walk(root: &Value, node: &Value, path: &str, lines: &mut Promise) -> BTreeSet<String> {
    let mut types = BTreeSet::new();
    let below = |inner: &Value, path: &str, lines: &mut Promise| {
        let types = Vec::from_iter(walk(root, inner, path, lines));
        lines.insert(format!("{path} {}", types.join("|")));
    };
    for (keyword, value) in node.as_object().expect("a schema is an object") {
        let each = || value.as_array().expect("a list of schemas").iter();
        match keyword.as_str() {
            "type" => {
                let named = value.as_array().map_or(vec![value], |several| several.iter().collect());
                types.extend(
                    named
                        .into_iter()
                        .map(|name| name.as_str().expect("a type's name").to_owned()),
                );
            }
            "$ref" => {
                let place = value.as_str().and_then(|place| place.strip_prefix('#'));
                let inner = root
                    .pointer(place.expect("a place in this schema"))
                    .expect("what is referred to");
                types.extend(walk(root, inner, path, lines));
            }
            "anyOf" | "oneOf" => types.extend(
                each()
                    .flat_map(|inner| walk(root, inner, path, lines))
                    .collect::<Vec<_>>(),
            ),
            "const" => drop(lines.insert(format!("{path} = {}", value.as_str().expect("a word")))),
            "enum" => lines.extend(each().map(|word| format!("{path} = {}", word.as_str().expect("a word")))),
            "properties" => {
                let required = Vec::from_iter(node["required"].as_array().into_iter().flatten());
                for (name, inner) in value.as_object().expect("fields") {
                    let dot = if path.is_empty() { "" } else { "." };
                    let absent = if required.iter().any(|required| *required == name) {
                        ""
                    } else {
                        "?"
                    };
                    below(inner, &format!("{path}{dot}{name}{absent}"), lines);
                }
            }
            "items" => below(value, &format!("{path}[]"), lines),
            "prefixItems" => each()
                .enumerate()
                .for_each(|(at, inner)| below(inner, &format!("{path}[{at}]"), lines)),
            "additionalProperties" => below(value, &format!("{path}.*"), lines),
            "$schema" | "$defs" | "title" | "description" | "default" | "required" | "format" | "minimum"
            | "maximum" | "minItems" | "maxItems" => {}
            unknown => panic!("{path}: what does {unknown:?} promise?"),
        }
    }
    types
}

/// What a reader of `older` may not meet in a version that is only a minor one above it, a line each.
fn broken(older: &Promise, newer: &Promise) -> Vec<String> {
    let path = |line: &str| line.split(' ').next().unwrap_or_default().to_owned();
    let known: BTreeSet<String> = older.iter().map(|line| path(line)).collect();
    let gone = older.difference(newer).map(|line| format!("gone, or changed: {line}"));
    let new = newer.difference(older).filter_map(|line| {
        let path = path(line);
        if line.contains(" = ") {
            // Words of these decide what a reader does; it must know all.
            let decides = ["verdict", "conformance"].iter().any(|name| path.ends_with(name));
            return (decides && known.contains(&path)).then(|| format!("a word that decides: {line}"));
        }
        let (parent, _) = path.rsplit_once('.').unwrap_or(("", &path));
        let whole = !path.ends_with(['?', ']', '*']);
        let parent_was_there = parent.is_empty() || known.contains(parent);
        (whole && parent_was_there && !known.contains(&path)).then(|| {
            format!("always there, so that a file of before cannot be read (serde's default makes it {path}?): {line}")
        })
    });
    gone.chain(new).collect()
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("docs")
}

/// The versions that are kept, in order.
fn kept() -> Vec<((u32, u32), Promise)> {
    let names = std::fs::read_dir(folder())
        .unwrap()
        .map(|entry| entry.unwrap().file_name());
    let mut kept: Vec<_> = names
        .filter_map(|name| {
            let name = name.to_str()?;
            let version = json::version(name.strip_prefix("run-")?.strip_suffix(".txt")?)?;
            let text = std::fs::read_to_string(folder().join(name)).unwrap();
            Some((version, text.lines().map(str::to_owned).collect()))
        })
        .collect();
    kept.sort();
    kept
}

#[test]
fn what_a_version_promises_stays() {
    let now = promise(&serde_json::from_str(&json::schema().unwrap()).unwrap());
    let path = folder().join(format!("run-{SCHEMA_VERSION}.txt"));
    if std::env::var_os("RCC_UPDATE").is_some() && !path.exists() {
        std::fs::write(
            &path,
            Vec::from_iter(now.iter().map(|line| format!("{line}\n"))).concat(),
        )
        .unwrap();
    }
    let kept = kept();
    let (version, last) = kept.last().expect("a version is kept");
    assert_eq!(
        Some(*version),
        json::version(SCHEMA_VERSION),
        "the last file docs/run-*.txt is the present version's; RCC_UPDATE=1 writes that of a new version"
    );
    let differ = Vec::from_iter(last.symmetric_difference(&now));
    let raise = if broken(last, &now).is_empty() {
        "minor"
    } else {
        "major"
    };
    assert!(
        differ.is_empty(),
        "run.json is not what version {SCHEMA_VERSION} promises ({}): {differ:#?}\n\
         If that version was released: raise the {raise} number of SCHEMA_VERSION (src/report/mod.rs), run this test with \
         RCC_UPDATE=1, and tell it in CHANGELOG.md. If it was not yet: remove the file, and run this test with RCC_UPDATE=1.\n{}",
        path.display(),
        broken(last, &now).join("\n")
    );
    for pair in kept.windows(2) {
        let [(before, older), (after, newer)] = pair else {
            unreachable!("windows of two")
        };
        if before.0 == after.0 {
            assert_eq!(
                broken(older, newer),
                Vec::<String>::new(),
                "{before:?} to {after:?} is no minor step"
            );
        }
    }
}

fn schema(properties: Value, required: &[&str]) -> Value {
    json!({"type": "object", "properties": properties, "required": required})
}

fn before() -> Value {
    schema(
        json!({
            "id": {"type": "string"},
            "cause": {"anyOf": [{"$ref": "#/$defs/Cause"}, {"type": "null"}]},
            "verdict": {"oneOf": [{"type": "string", "const": "pass"}]},
            "impact": {"type": "string", "enum": ["writes"]},
        }),
        &["id", "verdict", "impact"],
    )
}

fn with_definition(mut schema: Value) -> Value {
    schema["$defs"]["Cause"] =
        json!({"type": "array", "items": {"type": "object", "additionalProperties": {"type": "number"}}});
    schema
}

#[test]
fn a_promise_names_every_field_once() {
    let lines = Vec::from_iter(promise(&with_definition(before())));
    let expected = [
        "cause? array|null",
        "cause?[] object",
        "cause?[].* number",
        "id string",
        "impact = writes",
        "impact string",
        "verdict = pass",
        "verdict string",
    ];
    assert_eq!(lines, expected);
}

#[test]
#[should_panic(expected = "what does \"pattern\" promise?")]
fn a_keyword_that_is_not_known_is_told() {
    promise(&schema(json!({"id": {"type": "string", "pattern": "x"}}), &[]));
}

/// What is done to the schema, at a place, and how it is told; empty where a minor version may do it.
#[rstest]
#[case::nothing("/properties/id", json!({"type": "string"}), "")]
#[case::a_field_that_may_be_absent("/properties/new", json!({"type": "string"}), "")]
#[case::a_field_that_is_always_there("/required/3", json!("new"), "always there")]
#[case::a_word("/properties/impact/enum/1", json!("apart"), "")]
#[case::a_verdict("/properties/verdict/oneOf/1", json!({"type": "string", "const": "maybe"}), "a word that decides: verdict = maybe")]
#[case::a_word_less("/properties/impact/enum", json!([]), "gone, or changed: impact = writes")]
#[case::another_type("/properties/id", json!({"type": "integer"}), "gone, or changed: id string")]
#[case::may_be_absent("/required", json!(["verdict", "impact"]), "gone, or changed: id string")]
#[case::an_inner_field("/$defs/Cause/items/additionalProperties/type", json!("string"), "gone, or changed: cause?[].* number")]
fn what_a_minor_version_may_change(#[case] place: &str, #[case] value: Value, #[case] told: &str) {
    let older = with_definition(before());
    let mut newer = older.clone();
    let (parent, name) = place.rsplit_once('/').unwrap();
    match newer.pointer_mut(parent).unwrap() {
        Value::Array(list) => list.push(value),
        object => object[name] = value,
    }
    if place == "/required/3" {
        newer["properties"]["new"] = json!({"type": "string"});
    }
    let found = broken(&promise(&older), &promise(&newer)).join("; ");
    assert_eq!(found.is_empty(), told.is_empty(), "{found}");
    assert!(found.contains(told), "{found}");
}
