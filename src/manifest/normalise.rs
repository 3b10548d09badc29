//! What is usual YAML and yet refused by some servers, made explicit; every change is told.

use serde_json::Value;

/// Makes explicit what server-side apply of older servers refuses: the protocol of a port (before Kubernetes 1.21), a
/// quantity that is a number, and an octal mode, which this YAML parser leaves as text.
pub(super) fn normalise(value: &mut Value, told: &mut impl FnMut(String)) {
    if value["kind"] == "Service" {
        add_protocols(value.pointer_mut("/spec/ports"), "spec.ports", told);
    }
    let pod = if value["kind"] == "Pod" {
        "/spec"
    } else {
        "/spec/template/spec"
    };
    for list in ["containers", "initContainers"] {
        for container in items(value.pointer_mut(&format!("{pod}/{list}"))) {
            let name = container["name"].as_str().unwrap_or("?").to_owned();
            add_protocols(
                container.pointer_mut("/ports"),
                &format!("container {name}: ports"),
                told,
            );
            for kind in ["requests", "limits"] {
                let path = format!("container {name}: resources.{kind}");
                stringify(container.pointer_mut(&format!("/resources/{kind}")), &path, told);
            }
        }
    }
    for claim in items(value.pointer_mut("/spec/volumeClaimTemplates")) {
        let path = "volumeClaimTemplates: resources.requests";
        stringify(claim.pointer_mut("/spec/resources/requests"), path, told);
    }
    octal_modes(value, told);
}

fn items(list: Option<&mut Value>) -> impl Iterator<Item = &mut Value> {
    list.and_then(Value::as_array_mut).into_iter().flatten()
}

fn add_protocols(ports: Option<&mut Value>, path: &str, told: &mut impl FnMut(String)) {
    for (index, port) in items(ports).enumerate() {
        if let Some(port) = port.as_object_mut()
            && !port.contains_key("protocol")
        {
            port.insert("protocol".to_owned(), "TCP".into());
            told(format!("{path}[{index}].protocol: TCP was added"));
        }
    }
}

fn stringify(quantities: Option<&mut Value>, path: &str, told: &mut impl FnMut(String)) {
    for (name, quantity) in quantities.and_then(Value::as_object_mut).into_iter().flatten() {
        if let Value::Number(number) = quantity {
            told(format!("{path}.{name}: {number} was made \"{number}\""));
            *quantity = Value::String(number.to_string());
        }
    }
}

fn octal_modes(value: &mut Value, told: &mut impl FnMut(String)) {
    match value {
        Value::Object(object) => {
            for (key, value) in object {
                match value {
                    Value::String(text) if matches!(key.as_str(), "defaultMode" | "mode") && text.starts_with('0') => {
                        if let Ok(mode) = u32::from_str_radix(text.trim_start_matches("0o"), 8) {
                            told(format!("{key}: {text} was made {mode}"));
                            *value = mode.into();
                        }
                    }
                    other => octal_modes(other, told),
                }
            }
        }
        Value::Array(list) => list.iter_mut().for_each(|item| octal_modes(item, told)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}
