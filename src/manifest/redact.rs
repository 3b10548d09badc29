//! What is secret in an object, taken out of it in such a way that it still tells whether anybody filled it in.

use super::Document;
use crate::target::Secret;
use regex::Regex;
use serde_json::Value;
use std::sync::LazyLock;

/// What stands in the place of a secret that somebody filled in.
pub const FILLED_IN: &str = "redacted";

/// What stands in the place of a secret that is a placeholder.
const PLACEHOLDER: &str = "PASSWORD";

/// Whether a value is one that somebody was meant to replace.
pub fn is_placeholder(value: &str) -> bool {
    static PATTERN: LazyLock<Regex> = LazyLock::new(|| {
        let text = "^(PASSWORD|PASSWD|YOURS?[-_ ].*|YOU-.*|your[-_].*|<.*>|\\[.*\\]|\\.\\.\\.|(?i:change[-_ ]?(me|it|this)!?)|(?i:replace[-_ ]?(me|this|with.*))|(?i:insert[-_ ].*)|TODO.*|FIXME.*|[xX]{3,})$";
        Regex::new(text).unwrap_or_else(|error| unreachable!("{text} is a pattern: {error}"))
    });
    PATTERN.is_match(value.trim())
}

/// What stands for a secret: it is a placeholder where the secret is one, and empty where that is.
fn stand_in(secret: &str) -> &'static str {
    match secret {
        "" => "",
        secret if is_placeholder(secret) => PLACEHOLDER,
        _ => FILLED_IN,
    }
}

impl Document {
    /// Takes out every entry of a Secret, and the password wherever it stands by itself: in a ConfigMap's lines, in a
    /// variable's value, in a command's words. A password that is part of a longer word is left: the word is something
    /// else.
    pub fn redact(&mut self, password: Option<&Secret>) {
        if self.kind() == "Secret" {
            redact_entries(&mut self.value);
        }
        let word = password.map(Secret::expose).filter(|word| !word.is_empty());
        if let Some(word) = word {
            for field in ["data", "spec"] {
                if let Some(value) = self.value.get_mut(field) {
                    redact_texts(value, word);
                }
            }
        }
    }
}

fn redact_entries(secret: &mut Value) {
    let text_of = |encoded: &Value| {
        let bytes = serde_json::from_value::<k8s_openapi::ByteString>(encoded.clone()).ok()?;
        String::from_utf8(bytes.0).ok()
    };
    let data = secret.get_mut("data").and_then(Value::as_object_mut);
    for (_, value) in data.into_iter().flatten() {
        let text = text_of(value);
        let shown = text.as_deref().map_or(FILLED_IN, stand_in);
        let bytes = k8s_openapi::ByteString(shown.as_bytes().to_vec());
        *value = serde_json::to_value(bytes).unwrap_or_default();
    }
    let plain = secret.get_mut("stringData").and_then(Value::as_object_mut);
    for (_, value) in plain.into_iter().flatten() {
        *value = stand_in(value.as_str().unwrap_or(FILLED_IN)).into();
    }
}

fn redact_texts(value: &mut Value, word: &str) {
    match value {
        Value::Object(entries) => {
            for (key, value) in entries {
                // A name that is the same as the password is a name all the same: others refer to it.
                let is_a_name = key == "name" || key == "image" || key.ends_with("Name");
                if !is_a_name {
                    redact_texts(value, word);
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| redact_texts(item, word)),
        Value::String(text) => {
            if text.contains(word) {
                *text = replace_word(text, word, stand_in(word));
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// A text as it is in an object from which a password was taken out: the two can be compared.
pub fn redacted(text: &str, password: Option<&Secret>) -> String {
    match password.map(Secret::expose).filter(|word| !word.is_empty()) {
        Some(word) => replace_word(text, word, stand_in(word)),
        None => text.to_owned(),
    }
}

/// The text with the word replaced wherever it is no part of a longer one.
fn replace_word(text: &str, word: &str, by: &str) -> String {
    let part_of_a_word = |at: char| at.is_alphanumeric() || "-_./:".contains(at);
    let mut replaced = String::new();
    let mut rest = text;
    while let Some(at) = rest.find(word) {
        let (before, after) = (&rest[..at], &rest[at + word.len()..]);
        let previous = before.chars().next_back().or_else(|| replaced.chars().next_back());
        let alone = !previous.is_some_and(part_of_a_word) && !after.chars().next().is_some_and(part_of_a_word);
        replaced.push_str(before);
        replaced.push_str(if alone { by } else { word });
        rest = after;
    }
    replaced.push_str(rest);
    replaced
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::Manifest;
    use rstest::rstest;

    fn of_one(text: &str, password: &str) -> String {
        let mut manifest = Manifest::parse("m.yaml", text).unwrap();
        manifest.documents[0].redact(Some(&Secret::new(password)));
        manifest.documents[0].value.to_string()
    }

    #[rstest]
    #[case("PASSWORD", true)]
    #[case("<password>", true)]
    #[case("Change-Me!", true)]
    #[case("redacted", false)]
    #[case("s3cret", false)]
    fn a_placeholder_is_told_from_a_value(#[case] value: &str, #[case] expected: bool) {
        assert_eq!(is_placeholder(value), expected);
    }

    #[rstest]
    // "s3cret" and "PASSWORD", in base64.
    #[case("czNjcmV0", "redacted", false)]
    #[case("UEFTU1dPUkQ=", "PASSWORD", true)]
    fn a_secret_s_entries_tell_whether_they_are_placeholders(
        #[case] value: &str,
        #[case] expected: &str,
        #[case] kept: bool,
    ) {
        let text = format!("apiVersion: v1\nkind: Secret\nmetadata: {{name: s}}\ndata: {{password: {value}}}\n");
        let mut manifest = Manifest::parse("m.yaml", &text).unwrap();
        manifest.documents[0].redact(None);
        assert_eq!(manifest.secret("s", "password").unwrap(), expected);
        assert_eq!(manifest.documents[0].value.to_string().contains(value), kept);
    }

    #[test]
    fn a_password_in_other_objects_is_taken_out_where_it_stands_alone() {
        let map = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: m}\ndata: {redis.conf: \"requirepass s3cret\\nmasterauth \\\"s3cret\\\"\"}\n";
        let text = of_one(map, "s3cret");
        assert!(
            !text.contains("s3cret") && text.contains("requirepass redacted"),
            "{text}"
        );
        let pod = "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec: {containers: [{name: redis, command: [/opt/redis-server, redis], image: redis}]}\n";
        let text = of_one(pod, "redis");
        assert!(
            text.contains("\"name\":\"redis\"") && text.contains("/opt/redis-server"),
            "{text}"
        );
        assert!(text.contains("\"redacted\"]"), "{text}");
    }
}
