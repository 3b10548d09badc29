use super::*;
use rstest::rstest;

#[test]
fn the_canonical_deployment_is_part_of_the_program() {
    let descriptor = Descriptor::canonical().unwrap();
    let manifest = descriptor.manifest(&Parameters::default()).unwrap().unwrap();
    assert_eq!(descriptor.shape().nodes(), 6);
    assert_eq!(descriptor.selector(), "app=redis-cluster,appCluster=redis-cluster");
    assert!(
        manifest
            .find("StatefulSet", descriptor.stateful_set().unwrap())
            .is_some()
    );
    assert!(descriptor.password(Some(&manifest)).unwrap().is_some());
    let conf = descriptor.redis_conf.unwrap();
    assert!(
        manifest
            .config_map(&conf.config_map, &conf.key)
            .unwrap()
            .contains("cluster-enabled")
    );
}

#[rstest]
#[case::canonical("canonical", 12)]
#[case::hardened("hardened", 11)]
fn every_variant_can_be_made_of_its_manifest(#[case] name: &str, #[case] count: usize) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("manifests/targets");
    let descriptor = Descriptor::read(&folder.join(format!("{name}.yaml"))).unwrap();
    assert_eq!(descriptor.variants.len(), count);
    for (variant, recipe) in &descriptor.variants {
        let mut manifest = descriptor.manifest(&recipe.parameters).unwrap().unwrap();
        for patch in &recipe.patches {
            manifest
                .apply(patch)
                .unwrap_or_else(|error| panic!("{variant:?}: {error}"));
        }
    }
}

#[test]
fn the_published_manifest_is_used_with_three_parameters_and_no_other_change() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("manifests");
    let descriptor = Descriptor::read(&folder.join("targets/as-published.yaml")).unwrap();
    let manifest = descriptor.manifest(&Parameters::default()).unwrap().unwrap();
    let written = Manifest::read(&folder.join("as-published.yaml")).unwrap();
    let changed: Vec<String> = manifest
        .documents
        .iter()
        .zip(&written.documents)
        .filter(|(now, before)| now != before)
        .map(|(now, _)| now.to_string())
        .collect();
    assert_eq!(changed, ["StatefulSet/redis-cluster"]);
    assert_eq!(
        descriptor.password(Some(&manifest)).unwrap().unwrap().expose(),
        "PASSWORD"
    );
    let over = Parameters {
        storage_class: Some("fast".into()),
        ..Parameters::default()
    };
    let manifest = descriptor.manifest(&over).unwrap().unwrap();
    let workload = &manifest.find("StatefulSet", "redis-cluster").unwrap().value;
    assert_eq!(
        workload["spec"]["volumeClaimTemplates"][0]["spec"]["storageClassName"],
        "fast"
    );
}

const LEAST: &str = "version: 1\npods: {a: b}\nworkload: w\ncontainer: c\nshape: {masters: 3, replicasPerMaster: 1}\nbootstrap: {pod: w-5}\n";

#[rstest]
#[case::unknown_field(&format!("{LEAST}nonsense: 1\n"), "d.yaml:7:1: not a description of a target: unknown field `nonsense`")]
#[case::version(&LEAST.replace("version: 1", "version: 2"), "d.yaml: version 2")]
#[case::no_labels(&LEAST.replace("{a: b}", "{}"), "d.yaml: pods names no label")]
#[case::missing("version: 1\n", "d.yaml")]
#[case::user_alone(&format!("{LEAST}user: suite\n"), "d.yaml: names a user and no password")]
#[case::names_unsaid(&format!("{LEAST}tls: {{ca: {{file: ca.pem}}}}\n"), "d.yaml")]
#[case::no_key(
    &format!("{LEAST}tls: {{ca: {{file: a}}, certificate: {{file: b}}, serverNames: addresses}}\n"),
    "d.yaml: tls: it names a certificate and no key"
)]
#[case::no_name(
    &format!("{LEAST}tls: {{ca: {{file: a}}, serverNames: {{name: \"a b\"}}}}\n"),
    "d.yaml: tls: serverNames: \"a b\" is no name"
)]
#[case::syntax("version: [\n", "d.yaml")]
#[case::variant(&format!("{LEAST}variants: {{other: {{}}}}\n"), "d.yaml:7:")]
fn errors_name_the_file_and_the_line(#[case] text: &str, #[case] expected: &str) {
    let error = Descriptor::parse("d.yaml", text).unwrap_err().to_string();
    assert!(error.starts_with(expected), "{error}");
}

#[test]
fn the_least_description_can_only_attach() {
    let descriptor = Descriptor::parse("d.yaml", LEAST).unwrap();
    assert!(descriptor.manifest(&Parameters::default()).unwrap().is_none());
    assert!(descriptor.password(None).unwrap().is_none());
    assert_eq!(descriptor.client_port, 6379);
}

#[rstest]
#[case("requirepass abc", Some("abc"))]
#[case("requirepass \"PASSWORD\"\n", Some("PASSWORD"))]
#[case("  RequirePass 'it\\'s'", Some("it's"))]
#[case(r#"requirepass "\x61\"b\\""#, Some("a\"b\\"))]
#[case("requirepass a\nrequirepass b", Some("b"))]
#[case("# requirepass a\nmasterauth b", None)]
#[case("requirepass \"\"", None)]
fn requirepass_is_read_as_the_server_reads_it(#[case] conf: &str, #[case] expected: Option<&str>) {
    let password = required_password(conf);
    assert_eq!(password.as_ref().map(Secret::expose), expected);
}

#[test]
fn a_password_in_a_file_is_its_first_line() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("p"), "secret word\nmore\n").unwrap();
    let file = folder.path().join("d.yaml");
    std::fs::write(&file, format!("{LEAST}password: {{file: p}}\n")).unwrap();
    let descriptor = Descriptor::read(&file).unwrap();
    assert_eq!(descriptor.password(None).unwrap().unwrap().expose(), "secret word");
}

#[test]
fn the_schema_is_as_kept() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/target.schema.json");
    let schema = schema().unwrap();
    if std::env::var_os("RCC_UPDATE").is_some() {
        std::fs::write(&path, &schema).unwrap();
    }
    let kept = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        kept == schema,
        "docs/target.schema.json is stale; RCC_UPDATE=1 cargo test --lib descriptor writes it anew"
    );
}

#[rstest]
#[case::both("workload: a\nworkloads: [StatefulSet/b]\n", "not both")]
#[case::no_kind("workloads: [b]\n", "\"b\" is not StatefulSet/ or Deployment/")]
#[case::another_kind("workloads: [Job/b]\n", "\"Job/b\" is not")]
#[case::no_name("workloads: [Deployment/]\n", "\"Deployment/\" is not")]
fn what_makes_the_pods_is_said_in_one_way(#[case] lines: &str, #[case] says: &str) {
    let rest = "version: 1\npods: {app: a}\ncontainer: redis\nshape: {masters: 3, replicasPerMaster: 1}\n";
    let error = Descriptor::parse("t.yaml", &format!("{rest}{lines}"))
        .unwrap_err()
        .to_string();
    assert!(error.starts_with("t.yaml: ") && error.contains(says), "{error}");
}

#[rstest]
#[case::one("workload: a\n", Some("a"), &["StatefulSet/a"])]
#[case::the_same("workloads: [StatefulSet/a]\n", Some("a"), &["StatefulSet/a"])]
#[case::a_deployment("workloads: [Deployment/a]\n", None, &["Deployment/a"])]
#[case::two("workloads: [StatefulSet/a, StatefulSet/b]\n", None, &["StatefulSet/a", "StatefulSet/b"])]
#[case::bare("", None, &[])]
fn one_stateful_set_can_do_more(#[case] lines: &str, #[case] only: Option<&str>, #[case] all: &[&str]) {
    let rest = "version: 1\npods: {app: a}\ncontainer: redis\nshape: {masters: 3, replicasPerMaster: 1}\n";
    let descriptor = Descriptor::parse("t.yaml", &format!("{rest}{lines}")).unwrap();
    assert_eq!(descriptor.stateful_set(), only);
    assert_eq!(descriptor.workloads(), all);
    assert_eq!(descriptor.bootstrap_pod(), None);
}

#[rstest]
#[case::manifest_too(
    "manifest: a.yaml\ninstall: {command: [a]}\nremove: {command: [b]}\n",
    "t.yaml:6: install: the description names a manifest too"
)]
#[case::never_removed(
    "# why\ninstall:\n  command: [helm, install]\n",
    "t.yaml:6: install: there is no remove"
)]
#[case::never_made("remove: {command: [a]}\n", "t.yaml:5: remove: there is no install")]
#[case::no_word(
    "install:\n  seconds: 5\n  command: []\nremove: {command: [a]}\n",
    "t.yaml:7: install: the command names no program"
)]
#[case::empty_word(
    "install: {command: [a]}\nremove:\n  command: ['', b]\n",
    "t.yaml:7: remove: the command names no program"
)]
#[case::no_time("install: {command: [a], seconds: 0}\nremove: {command: [b]}\n", "t.yaml:5:")]
#[case::a_line("install: helm install a ./chart\nremove: {command: [b]}\n", "t.yaml:5:")]
#[case::a_command_line("install: {command: helm install a}\nremove: {command: [b]}\n", "t.yaml:5:")]
#[case::misspelt("install: {command: [a], second: 5}\nremove: {command: [b]}\n", "t.yaml:5:")]
#[case::impact("impact: harmless\n", "t.yaml:5:")]
fn commands_and_impact_that_are_of_no_use_are_named_with_their_line(#[case] lines: &str, #[case] says: &str) {
    let rest = "version: 1\npods: {app: a}\ncontainer: redis\nshape: {masters: 3, replicasPerMaster: 1}\n";
    let error = Descriptor::parse("t.yaml", &format!("{rest}{lines}"))
        .unwrap_err()
        .to_string();
    assert!(error.starts_with(says), "{error}");
}

#[test]
fn a_command_is_words_with_a_bound() {
    let lines = "install:\n  command: [helm, install, shop, ./chart, --set, 'a=b c']\n  seconds: 90\nremove: {command: [./remove.sh]}\n";
    let descriptor = Descriptor::parse("t.yaml", &format!("{LEAST}{lines}")).unwrap();
    let (install, remove) = (descriptor.install.clone().unwrap(), descriptor.remove.clone().unwrap());
    assert_eq!(install.command.last().map(String::as_str), Some("a=b c"));
    assert_eq!((install.program(), install.limit().as_secs()), ("helm", 90));
    assert_eq!(remove.limit().as_secs(), 600);
    assert!(descriptor.manifest(&Parameters::default()).unwrap().is_none());
}

#[rstest]
#[case::unsaid("", &[])]
#[case::read_only("impact: read-only\n", &[Impact::Writes, Impact::Apart, Impact::Disruptive])]
#[case::writes("impact: writes\n", &[Impact::Apart, Impact::Disruptive])]
#[case::apart("impact: apart\n", &[Impact::Disruptive])]
#[case::disruptive("impact: disruptive\n", &[])]
fn a_description_says_how_much_may_be_done(#[case] line: &str, #[case] refused: &[Impact]) {
    let text = format!("version: 1\n{line}{}", LEAST.replace("version: 1\n", ""));
    let descriptor = Descriptor::parse("t.yaml", &text).unwrap();
    for impact in [Impact::ReadOnly, Impact::Writes, Impact::Apart, Impact::Disruptive] {
        let refusal = descriptor.refusal(impact);
        assert_eq!(refusal.is_some(), refused.contains(&impact), "{impact}");
        let says = format!("{impact}: the description allows at most {} (canonical:2)", line.trim());
        assert!(refusal.is_none_or(|refusal| refusal == says));
    }
}
