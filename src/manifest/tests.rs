use super::patch::apply;
use super::*;
use proptest::prelude::*;
use rstest::rstest;
use serde_json::json;

const PUBLISHED: &str = include_str!("../../manifests/as-published.yaml");

fn published() -> Manifest {
    Manifest::parse("seed.yaml", PUBLISHED).unwrap()
}

fn places() -> parameters::Places<'static> {
    parameters::Places {
        container: "redis",
        secret: None,
    }
}

#[test]
fn documents_keep_their_order_and_their_line() {
    let manifest = published();
    let found: Vec<(String, usize)> = manifest
        .documents
        .iter()
        .map(|document| (document.to_string(), document.line))
        .collect();
    let lines: Vec<&str> = PUBLISHED.lines().collect();
    assert_eq!(found.len(), 5);
    for (_, line) in &found {
        assert!(lines[line - 1].starts_with("apiVersion"), "line {line}");
    }
    assert_eq!(found[4].0, "StatefulSet/redis-cluster");
}

#[test]
fn what_old_servers_refuse_is_made_explicit_and_told() {
    assert_eq!(
        published().normalisations,
        ["Service/redis-service: spec.ports[0].protocol: TCP was added"]
    );
    let text = "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec:\n  containers:\n  - name: c\n    ports: [{containerPort: 1}]\n    resources: {limits: {cpu: 2}, requests: {cpu: 0.5}}\n  volumes:\n  - {name: v, secret: {secretName: s, defaultMode: 0400}}\n";
    let manifest = Manifest::parse("p.yaml", text).unwrap();
    let spec = &manifest.documents[0].value["spec"];
    assert_eq!(
        spec["containers"][0]["resources"],
        json!({"limits": {"cpu": "2"}, "requests": {"cpu": "0.5"}})
    );
    assert_eq!(spec["containers"][0]["ports"][0]["protocol"], "TCP");
    assert_eq!(spec["volumes"][0]["secret"]["defaultMode"], 0o400);
    assert_eq!(manifest.normalisations.len(), 4);
}

#[test]
fn nothing_else_is_changed() {
    let service = "apiVersion: v1\nkind: Service\nmetadata: {name: s, annotations: null}\nspec: {ports: [{port: 1, protocol: UDP}]}\n";
    let manifest = Manifest::parse("s.yaml", service).unwrap();
    assert_eq!(
        manifest.documents[0].value,
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s", "annotations": null},
               "spec": {"ports": [{"port": 1, "protocol": "UDP"}]}})
    );
    assert!(manifest.normalisations.is_empty());
}

#[rstest]
#[case::bad_indentation(
    "kind: A\n---\napiVersion: v1\n kind: B\n",
    "m.yaml:1:1: document 1: not a Kubernetes object: apiVersion"
)]
#[case::second_document(
    "apiVersion: v1\nkind: A\nmetadata: {name: a}\n---\napiVersion: v1\n kind: B\n",
    "m.yaml:6:"
)]
#[case::unclosed("apiVersion: v1\nkind: [A\n", "m.yaml:")]
#[case::duplicate("apiVersion: v1\nkind: A\nkind: B\nmetadata: {name: a}\n", "m.yaml:")]
#[case::no_name(
    "# comment\n\napiVersion: v1\nkind: A\nmetadata: {}\n",
    "m.yaml:3:1: document 1: not a Kubernetes object: metadata.name is missing"
)]
#[case::text("just text\n", "m.yaml:1:1: document 1: not a Kubernetes object: apiVersion")]
#[case::tag("apiVersion: !x v1\nkind: A\n", "m.yaml:1:1: document 1: the tag !x")]
#[case::empty("# nothing\n---\n", "m.yaml: holds no Kubernetes object")]
fn errors_name_the_file_and_the_line(#[case] text: &str, #[case] expected: &str) {
    let error = Manifest::parse("m.yaml", text).unwrap_err().to_string();
    assert!(error.starts_with(expected), "{error}");
    assert!(!error.contains(" at line "), "{error}");
}

#[rstest]
#[case::flow("[".repeat(200) + &"]".repeat(200), "m.yaml:2:")]
#[case::far_too_deep("[".repeat(20_000), "m.yaml:2:")]
#[case::flow_that_ends("[".repeat(20_000) + &"]".repeat(20_000), "m.yaml:2:")]
#[case::mappings("{a: ".repeat(200), "m.yaml:2:")]
#[case::block(format!("\n{}b", "- ".repeat(200)), "m.yaml:3:")]
fn what_lies_too_deep_is_refused_at_its_place(#[case] deep: String, #[case] place: &str) {
    let error = Manifest::parse("m.yaml", &format!("# first\na: {deep}\n"))
        .unwrap_err()
        .to_string();
    assert!(error.starts_with(place), "{error}");
    assert!(
        error.ends_with("lists and mappings lie deeper than 128 levels"),
        "{error}"
    );
}

#[rstest]
#[case("[".repeat(127) + &"]".repeat(127))]
// A text is no nesting, whatever is in it.
#[case(format!("'{}'", "[".repeat(1000)))]
#[case(format!("|\n  {}", "[".repeat(1000)))]
fn what_is_not_too_deep_is_read(#[case] deep: String) {
    let text = format!("apiVersion: v1\nkind: A\nmetadata: {{name: a}}\nspec: {deep}\n");
    assert!(Manifest::parse("m.yaml", &text).is_ok());
}

#[test]
fn lists_are_taken_apart_and_merge_keys_applied() {
    let text = "apiVersion: v1\nkind: List\nitems:\n- &a {apiVersion: v1, kind: A, metadata: {name: a}}\n- {<<: *a, kind: B}\n";
    let manifest = Manifest::parse("l.yaml", text).unwrap();
    assert_eq!(manifest.documents[1].to_string(), "B/a");
}

#[test]
fn parameters_set_the_fields_that_they_name_and_no_other() {
    let mut manifest = published();
    let parameters = Parameters {
        image: Some("redis:7".into()),
        pull_policy: Some("Never".into()),
        storage_class: Some("standard".into()),
        replicas: Some(4),
        cpu_request: Some("10m".into()),
        password: None,
    };
    manifest.set(&parameters, places()).unwrap();
    let mut expected = published();
    for (at, value) in [
        ("/spec/template/spec/containers/0/image", json!("redis:7")),
        ("/spec/template/spec/containers/0/imagePullPolicy", json!("Never")),
        ("/spec/volumeClaimTemplates/0/spec/storageClassName", json!("standard")),
        ("/spec/replicas", json!(4)),
        ("/spec/template/spec/containers/0/resources/requests/cpu", json!("10m")),
    ] {
        *expected.documents[4].value.pointer_mut(at).unwrap() = value;
    }
    assert_eq!(manifest, expected);
    assert_eq!(manifest.images(), ["redis:7"]);
}

#[test]
fn a_parameter_without_a_field_is_an_error() {
    let mut manifest = published();
    let with = |change: fn(&mut Parameters)| {
        let mut parameters = Parameters::default();
        change(&mut parameters);
        parameters
    };
    let password = with(|parameters| parameters.password = Some(crate::target::Secret::new("x")));
    assert!(
        manifest
            .set(&password, places())
            .unwrap_err()
            .to_string()
            .contains("not in a Secret")
    );
    let image = with(|parameters| parameters.image = Some("x".into()));
    let elsewhere = parameters::Places {
        container: "other",
        secret: None,
    };
    let error = manifest.set(&image, elsewhere).unwrap_err().to_string();
    assert_eq!(
        error,
        "seed.yaml: no container is named other, so its image cannot be set"
    );
}

#[test]
fn a_password_goes_into_one_place_of_the_secret() {
    let text = "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\ndata: {p: YWJj, q: eHl6}\n";
    let mut manifest = Manifest::parse("s.yaml", text).unwrap();
    assert_eq!(manifest.secret("s", "p").unwrap(), "abc");
    let parameters = Parameters {
        password: Some(crate::target::Secret::new("a\"b")),
        ..Parameters::default()
    };
    let places = parameters::Places {
        container: "redis",
        secret: Some(("s", "p")),
    };
    manifest.set(&parameters, places).unwrap();
    assert_eq!(manifest.secret("s", "p").unwrap(), "a\"b");
    assert_eq!(manifest.documents[0].value["data"], json!({"q": "eHl6"}));
    assert!(
        manifest
            .secret("s", "r")
            .unwrap_err()
            .to_string()
            .contains("no entry r")
    );
}

#[test]
fn config_map_entries_are_found_or_said_to_be_missing() {
    let manifest = published();
    assert!(
        manifest
            .config_map("redis-cluster-config", "redis.conf")
            .unwrap()
            .contains("cluster-enabled yes")
    );
    let error = manifest
        .config_map("redis-cluster-config", "x")
        .unwrap_err()
        .to_string();
    assert_eq!(
        error,
        "seed.yaml: ConfigMap/redis-cluster-config has no entry x; it has redis.conf"
    );
    assert!(manifest.config_map("x", "y").is_err());
}

#[rstest]
#[case("/a/b", Operation::Set(json!(1)), json!({"a": {"b": 1}, "l": [{"name": "x", "v": "s"}]}))]
#[case("/n/m", Operation::Set(json!(1)), json!({"a": {}, "n": {"m": 1}, "l": [{"name": "x", "v": "s"}]}))]
#[case("/l/name=x/v", Operation::Prepend(json!("p")), json!({"a": {}, "l": [{"name": "x", "v": "ps"}]}))]
#[case("/l/0/v", Operation::Append(json!("p")), json!({"a": {}, "l": [{"name": "x", "v": "sp"}]}))]
#[case("/l", Operation::Prepend(json!([1, 2])), json!({"a": {}, "l": [1, 2, {"name": "x", "v": "s"}]}))]
#[case("/l", Operation::Append(json!(1)), json!({"a": {}, "l": [{"name": "x", "v": "s"}, 1]}))]
#[case("/a/l", Operation::Append(json!([1])), json!({"a": {"l": [1]}, "l": [{"name": "x", "v": "s"}]}))]
#[case("/l/name=x", Operation::Remove, json!({"a": {}, "l": []}))]
#[case("/a", Operation::Remove, json!({"l": [{"name": "x", "v": "s"}]}))]
#[case("/k~1~0", Operation::Set(json!(1)), json!({"a": {}, "k/~": 1, "l": [{"name": "x", "v": "s"}]}))]
fn a_patch_does_what_it_says(#[case] at: &str, #[case] operation: Operation, #[case] expected: serde_json::Value) {
    let mut value = json!({"a": {}, "l": [{"name": "x", "v": "s"}]});
    apply(&mut value, at, &operation).unwrap();
    assert_eq!(value, expected);
}

#[rstest]
#[case("", Operation::Remove, "a pointer begins with a slash")]
#[case("/x", Operation::Remove, "/x: is not there")]
#[case("/l/name=y/v", Operation::Set(json!(1)), "/l/name=y: is not there")]
#[case("/l/5", Operation::Remove, "/l/5: is not there")]
#[case("/a/b/c", Operation::Prepend(json!(1)), "/a/b: is not there")]
#[case("/a", Operation::Append(json!("x")), "/a: is neither a list nor a text")]
fn a_patch_that_leads_nowhere_says_where(#[case] at: &str, #[case] operation: Operation, #[case] expected: &str) {
    let mut value = json!({"a": {}, "l": [{"name": "x"}]});
    let error = apply(&mut value, at, &operation).unwrap_err().to_string();
    assert!(error.contains(expected), "{error}");
}

#[test]
fn a_patch_for_no_object_is_an_error() {
    let patch: Patch = serde_yaml::from_str("{kind: Job, at: /spec/x, remove: true}").unwrap();
    let error = published().apply(&patch).unwrap_err().to_string();
    assert_eq!(error, "seed.yaml: a patch is for Job/*, which is not there");
    for wrong in [
        "{kind: A, at: /b}",
        "{kind: A, at: /b, set: 1, append: 2}",
        "{kind: A, at: /b, sett: 1}",
    ] {
        assert!(serde_yaml::from_str::<Patch>(wrong).is_err(), "{wrong}");
    }
}

fn json_value() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        Just(json!(null)),
        any::<bool>().prop_map(|b| json!(b)),
        any::<i32>().prop_map(|n| json!(n)),
        "[a-z/~=]{0,4}".prop_map(|s| json!(s))
    ];
    leaf.prop_recursive(3, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(serde_json::Value::from),
            prop::collection::btree_map("[a-c/~]{1,3}", inner, 0..4).prop_map(|map| json!(map)),
        ]
    })
}

/// Every leaf and every empty container of a value, by its pointer.
fn leaves(value: &serde_json::Value, at: String, into: &mut std::collections::BTreeMap<String, serde_json::Value>) {
    let escape = |key: &str| key.replace('~', "~0").replace('/', "~1");
    match value {
        serde_json::Value::Object(object) if !object.is_empty() => {
            for (key, value) in object {
                leaves(value, format!("{at}/{}", escape(key)), into);
            }
        }
        serde_json::Value::Array(items) if !items.is_empty() => {
            for (index, value) in items.iter().enumerate() {
                leaves(value, format!("{at}/{index}"), into);
            }
        }
        other => {
            into.insert(at, other.clone());
        }
    }
}

proptest! {
    #[test]
    fn setting_a_field_touches_that_field_alone(value in json_value(), pick in any::<prop::sample::Index>()) {
        let mut before = std::collections::BTreeMap::new();
        leaves(&value, String::new(), &mut before);
        let pointers: Vec<String> = before.keys().filter(|at| !at.is_empty()).cloned().collect();
        prop_assume!(!pointers.is_empty());
        let at = &pointers[pick.index(pointers.len())];
        let mut patched = value;
        apply(&mut patched, at, &Operation::Set(json!("new"))).unwrap();
        let mut after = std::collections::BTreeMap::new();
        leaves(&patched, String::new(), &mut after);
        before.insert(at.clone(), json!("new"));
        prop_assert_eq!(before, after);
    }

    #[test]
    fn any_password_survives_the_secret(password in "[ -~]{1,24}") {
        let text = "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\nstringData: {p: x}\n";
        let mut manifest = Manifest::parse("s.yaml", text).unwrap();
        let parameters = Parameters { password: Some(crate::target::Secret::new(&*password)), ..Parameters::default() };
        manifest.set(&parameters, parameters::Places { container: "c", secret: Some(("s", "p")) }).unwrap();
        prop_assert_eq!(manifest.secret("s", "p").unwrap(), password);
    }

    #[test]
    fn no_text_makes_the_parser_panic(text in "([a-z:\\-{}\\[\\]&*!%# \n]{0,40})") {
        let _ = Manifest::parse("x.yaml", &text);
    }
}
