//! The renderings of a run: golden files for runs that hold everything that can happen, and properties for the rest.
//!
//! `RCC_UPDATE=1 cargo test --test reports` writes the golden files and the schema anew; review the difference.

#![allow(clippy::unwrap_used, reason = "a panic in a test is a failed test with a place")]

use pretty_assertions::assert_eq;
use proptest::prelude::*;
use quick_xml::events::Event;
use redis_cluster_conformance::case::{Impact, Level, Profile, Seed};
use redis_cluster_conformance::cluster::connection::Address;
use redis_cluster_conformance::cluster::node::Member;
use redis_cluster_conformance::cluster::view::Shape;
use redis_cluster_conformance::context::{Measurement, Secret};
use redis_cluster_conformance::exit;
use redis_cluster_conformance::report::compare::{self, ChangeKind, Comparison, Worse};
use redis_cluster_conformance::report::course::{Course, Gap, Moment, Series, Writes};
use redis_cluster_conformance::report::known::{Known, KnownFailing, Listed};
use redis_cluster_conformance::report::matrix::{self, Cell, Matrix, Record};
use redis_cluster_conformance::report::picture::{Owner, Picture, Pictured, Silent, SlotMap};
use redis_cluster_conformance::report::scorecard::{Figure, LostWrite, Scorecard, Trial};
use redis_cluster_conformance::report::{
    Abort, AbortKind, CaseResult, Conformance, Run, SCHEMA_VERSION, Server, Strictness, Suite, Summary, html, json,
    junit, markdown, repeat, terminal, write,
};
use redis_cluster_conformance::target::{Phase, TargetDescription, TargetKind};
use redis_cluster_conformance::verdict::VerdictName;
use rstest::rstest;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

fn case(id: &str, verdict: VerdictName, seed: &[Seed]) -> CaseResult {
    CaseResult {
        id: id.into(),
        title: format!("what {id} says, in the present tense"),
        requirement: format!("Every node MUST keep what {id} says."),
        source: Some("cluster-spec, Keys distribution model".into()),
        level: Level::Must,
        profile: Profile::Core,
        seed: seed.to_vec(),
        impact: Impact::ReadOnly,
        verdict,
        known: None,
        seconds: 0.031,
        expected: vec![],
        actual: None,
        cause: None,
        reason: None,
        evidence: None,
        timeline: None,
        course: None,
        measured: vec![],
        notes: vec![],
    }
}

fn figure(name: &str, value: f64, floor: Option<f64>, bound: Option<f64>) -> Measurement {
    Measurement {
        name: name.into(),
        value,
        unit: "s".into(),
        floor,
        bound,
    }
}

fn run_of(cases: Vec<CaseResult>, aborted: Option<Abort>, counted: Strictness) -> Run {
    Run {
        schema_version: SCHEMA_VERSION.into(),
        run_id: "k3x9".into(),
        suite: Suite {
            version: "0.1.0".into(),
            commit: Some("5c4fb03aaaabbbbccccdddd".into()),
        },
        target: TargetDescription {
            kind: TargetKind::Kind,
            descriptor: [("manifest", "manifests/redis-cluster.yaml"), ("namespace", "rcc-k3x9")]
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .into(),
            shape: Shape {
                masters: 3,
                replicas_per_master: 1,
            },
        },
        server: None,
        started: "2026-08-22T10:00:00Z".parse().unwrap(),
        ended: "2026-08-22T10:02:03.5Z".parse().unwrap(),
        phases: vec![],
        summary: Summary::of(&cases, aborted.is_some(), counted),
        cases,
        aborted,
        cause: None,
        left_behind: vec![],
        scorecard: None,
        pictures: vec![],
    }
}

const CAUSE: &str = "slots 0-5460 unserved: master 10.244.0.4 (redis-cluster-0) unreachable since 12.1 s; its replica \
                     redis-cluster-4 has its link down: NOAUTH Authentication required.";

/// A run that holds every verdict, figures, notes, evidence, text that is not ASCII, and text that would act.
fn every_verdict() -> Run {
    use VerdictName::{Blocked, Error, Fail, Pass, Skipped, Unsupported};
    let cases = vec![
        CaseResult {
            measured: vec![figure("from apply to whole", 49.2, Some(21.0), Some(300.0))],
            profile: Profile::Kubernetes,
            ..case("BOOT-01", Pass, &[Seed::A6])
        },
        case("SLOT-01", Pass, &[Seed::A1]),
        CaseResult {
            expected: vec!["every node reports cluster_slots_ok:16384".into()],
            actual: Some(
                "redis-cluster-1 (10.244.0.5:6379): cluster_slots_ok:10923, cluster_slots_pfail:0, \
                 cluster_slots_fail:5461\nredis-cluster-2 (10.244.0.6:6379): cluster_slots_ok:10923"
                    .into(),
            ),
            cause: Some(CAUSE.into()),
            evidence: Some("evidence/SLOT-02".into()),
            timeline: Some("evidence/SLOT-02/timeline.txt".into()),
            seconds: 11.004,
            ..case("SLOT-02", Fail, &[Seed::A1])
        },
        CaseResult {
            level: Level::Should,
            requirement: "A cluster of three masters SHOULD be split 5461/5462/5461.".into(),
            profile: Profile::Extended,
            expected: vec!["0-5460, 5461-10922, 10923-16383".into()],
            actual: Some("0-5500, 5501-11000, 11001-16383".into()),
            ..case("SLOT-05", Fail, &[Seed::A1])
        },
        CaseResult {
            expected: vec!["a reply +PONG".into(), "a reply -LOADING".into()],
            actual: Some("redis-cluster-3: PING -> -ERR \u{1b}[31m<&>\u{0}\r\n\u{fffe} Schlüssel „ü“ ]]> 鍵".into()),
            cause: Some("redis-cluster-3 does not ask for a password".into()),
            evidence: Some("evidence/AUTH-01".into()),
            ..case("AUTH-01", Fail, &[Seed::A3])
        },
        CaseResult {
            reason: Some("the port-forward to redis-cluster-2 broke: unexpected end of stream".into()),
            evidence: Some("evidence/REPL-01".into()),
            ..case("REPL-01", Error, &[Seed::A2])
        },
        CaseResult {
            reason: Some("CLUSTER SHARDS: the server says \"ERR unknown subcommand\"".into()),
            ..case("SLOT-04", Unsupported, &[Seed::A1])
        },
        CaseResult {
            reason: Some("left out by --skip HASH".into()),
            ..case("HASH-01", Skipped, &[Seed::A4])
        },
        CaseResult {
            reason: Some("left out by --skip HASH".into()),
            ..case("HASH-02", Skipped, &[Seed::A4])
        },
        CaseResult {
            measured: vec![
                figure("write gap", 8.41, Some(5.5), Some(20.0)),
                Measurement {
                    unit: "keys".into(),
                    ..figure("acknowledged writes", 1204.0, None, None)
                },
            ],
            notes: vec!["the replica was promoted; the pod came back as its replica".into()],
            timeline: Some("evidence/FAIL-01/timeline.txt".into()),
            course: Some(course()),
            impact: Impact::Disruptive,
            seconds: 31.25,
            profile: Profile::Kubernetes,
            ..case("FAIL-01", Pass, &[Seed::A5])
        },
        CaseResult {
            reason: Some(
                "FAIL-01 left the cluster not whole: redis-cluster-0: cluster_state:fail (expected ok)".into(),
            ),
            impact: Impact::Disruptive,
            ..case("FAIL-02", Blocked, &[Seed::A5])
        },
    ];
    Run {
        server: Some(Server {
            product: "Redis".into(),
            version: "7.2.4".into(),
            node_timeout_ms: 5000,
            nodes: (0..6)
                .map(|pod: u8| Member {
                    name: format!("redis-cluster-{pod}"),
                    address: Address::new(format!("10.244.0.{}", pod + 4), 6379),
                })
                .collect(),
        }),
        phases: vec![
            Phase {
                name: "kind cluster".into(),
                seconds: 31.02,
                floor: None,
            },
            Phase {
                name: "bootstrap".into(),
                seconds: 12.31,
                floor: Some(3.0),
            },
        ],
        cause: Some(CAUSE.into()),
        left_behind: vec!["namespace rcc-k3x9: kubectl delete namespace rcc-k3x9".into()],
        scorecard: Some(scorecard()),
        pictures: vec![picture()],
        ..run_of(cases, None, Strictness::default())
    }
}

/// A gap of 8 s, and what happened meanwhile.
fn course() -> Course {
    let moment = |at: f64, source: &str, what: &str| Moment {
        at,
        source: source.into(),
        what: what.into(),
    };
    Course {
        gaps: vec![Gap {
            slot: 7,
            from: 15.1,
            until: 23.51,
            ended: true,
            met: "-CLUSTERDOWN The cluster is down".into(),
        }],
        moments: vec![
            moment(15.0, "suite", "redis-cluster-0 is to be stopped gracefully"),
            moment(20.4, "redis-cluster-1", "flags redis-cluster-0 fail? (PFAIL)"),
            moment(22.9, "redis-cluster-3", "is a master"),
        ],
    }
}

/// Five of six nodes answered; one of them still has an old map, and a replica follows a master that is not there.
fn picture() -> Picture {
    let node = |pod: u8, replicates: Option<&str>, host: &str| Pictured {
        name: format!("redis-cluster-{pod}"),
        master: replicates.is_none(),
        replicates: replicates.map(Into::into),
        link: replicates.map(|_| if pod == 4 { "connecting" } else { "connected" }.into()),
        host: Some(host.into()),
    };
    let map = |told_by: &[u8], owners: &[(&str, u16, u16)]| SlotMap {
        told_by: told_by.iter().map(|pod| format!("redis-cluster-{pod}")).collect(),
        owners: owners
            .iter()
            .map(|(name, first, last)| Owner {
                name: (*name).into(),
                slots: vec![(*first, *last)],
            })
            .collect(),
    };
    Picture {
        moment: "after the cases".into(),
        at: "2026-08-22T10:02:00Z".parse().unwrap(),
        nodes: vec![
            node(1, None, "worker-1"),
            node(2, None, "worker-2"),
            node(3, None, "worker-1"),
            node(4, Some("10.244.0.4:6379"), "worker-2"),
            node(5, Some("redis-cluster-2"), "worker-2"),
        ],
        maps: vec![
            map(
                &[1, 2, 3, 5],
                &[
                    ("redis-cluster-3", 0, 5460),
                    ("redis-cluster-1", 5461, 10922),
                    ("redis-cluster-2", 10923, 16383),
                ],
            ),
            map(
                &[4],
                &[
                    ("0f3a91c2", 0, 5460),
                    ("redis-cluster-1", 5461, 10922),
                    ("redis-cluster-2", 10923, 16300),
                ],
            ),
        ],
        silent: vec![Silent {
            name: "redis-cluster-0".into(),
            why: "10.244.0.4:6379: connection refused".into(),
        }],
    }
}

/// Two trials: a failover, and a master that was back at once and had lost a write.
fn scorecard() -> Scorecard {
    let trial = |number: usize, figures: &[(Figure, f64)]| Trial {
        number,
        victim: "redis-cluster-0".into(),
        master: Some("redis-cluster-3".into()),
        returned_as: Some("replica".into()),
        figures: figures.iter().copied().collect(),
        latest_write: 0.0,
        strange: Vec::new(),
        coarsest_look: 0.0123,
        acked: 2500,
        refused: 812,
        indeterminate: 2,
        lost: Vec::new(),
        phantom: Vec::new(),
        problem: None,
        series: None,
    };
    let lost = LostWrite {
        slot: 7,
        shard: Some("redis-cluster-0".into()),
        what: "41 of rcc:k3x9:OPS-16:ledger:{q}".into(),
        acked_by: None,
        epoch: Some(1),
        since_fault: -0.25,
    };
    let writes = |acked: &[u32], refused: &[u32], slowest: &[Option<u32>]| Writes {
        acked: acked.to_vec(),
        refused: refused.to_vec(),
        indeterminate: vec![0, 2, 0, 0, 0],
        slowest: slowest.to_vec(),
    };
    let series = Series {
        from: -2.0,
        step: 2.0,
        hit: writes(
            &[200, 4, 0, 0, 120],
            &[0, 190, 200, 200, 80],
            &[Some(3), Some(900), None, None, Some(12)],
        ),
        others: writes(&[400; 5], &[0; 5], &[Some(2); 5]),
    };
    let first = trial(
        1,
        &[
            (Figure::Failed, 7.4),
            (Figure::FirstWrite, 8.13),
            (Figure::WriteGap, 8.12),
        ],
    );
    let trials = vec![
        Trial {
            series: Some(series),
            ..first
        },
        Trial {
            lost: vec![lost],
            problem: Some("a replica of redis-cluster-0 is promoted, within 40.0 s: after 40.1 s: no".into()),
            ..trial(2, &[(Figure::WriteGap, 0.31)])
        },
    ];
    let protocol = |figure| match figure {
        Figure::WriteGap => (Some(5.5), Some(20.0)),
        _ => (None, None),
    };
    Scorecard::of("kill", 3, trials, protocol)
}

fn aborted() -> Run {
    let abort = Abort {
        kind: AbortKind::Target,
        message:
            "redis-cluster-5 is Pending: 0/1 nodes are available: 1 Insufficient cpu.\nGive the kind node more CPU."
                .into(),
    };
    let cases = ["SLOT-01", "FAIL-01"].map(|id| CaseResult {
        reason: Some("the run ended before it".into()),
        ..case(id, VerdictName::Skipped, &[Seed::A1])
    });
    Run {
        cause: Some("redis-cluster-5 is Pending: 0/1 nodes are available: 1 Insufficient cpu.".into()),
        ..run_of(cases.into(), Some(abort), Strictness::default())
    }
}

/// A run of so many cases, and what there is of it where it ended early.
fn many(ended_early: bool) -> Run {
    let ids = ["SLOT-01", "SLOT-02", "SLOT-03", "REPL-01", "AUTH-01"];
    let of = |id: &&'static str| match ended_early {
        false => case(id, VerdictName::Pass, &[Seed::A1]),
        true => CaseResult {
            reason: Some("never ran: 3 of 6 pods Ready".into()),
            ..case(id, VerdictName::Skipped, &[Seed::A1])
        },
    };
    Run {
        aborted: ended_early.then(|| aborted().aborted).flatten(),
        ..run_of(ids.iter().map(of).collect(), None, Strictness::default())
    }
}

fn empty() -> Run {
    run_of(vec![], None, Strictness::default())
}

fn conformant() -> Run {
    let cases = [("SLOT-01", Seed::A1), ("REPL-01", Seed::A2), ("AUTH-01", Seed::A3)];
    run_of(
        cases.map(|(id, seed)| case(id, VerdictName::Pass, &[seed])).into(),
        None,
        Strictness::default(),
    )
}

fn updating() -> bool {
    std::env::var_os("RCC_UPDATE").is_some()
}

fn same_as_file(path: PathBuf, text: &str) {
    if updating() {
        std::fs::write(&path, text).unwrap();
    }
    let kept = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(
        kept,
        text,
        "{} is stale; RCC_UPDATE=1 cargo test --test reports writes it anew",
        path.display()
    );
}

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

#[rstest]
#[case("every-verdict", every_verdict())]
#[case("aborted", aborted())]
#[case("empty", empty())]
#[case("conformant", conformant())]
#[case("known", known())]
fn renderings_are_as_kept(#[case] name: &str, #[case] run: Run) {
    same_as_file(golden(&format!("{name}.json")), &json::render(&run).unwrap());
    same_as_file(golden(&format!("{name}.junit.xml")), &junit::render(&run).unwrap());
    let text = terminal::render(&run, false, Some(100), Some(Path::new("out/k3x9")));
    same_as_file(golden(&format!("{name}.txt")), &text);
    same_as_file(golden(&format!("{name}.html")), &html::render(&run).unwrap());
    same_as_file(golden(&format!("{name}.summary.md")), &markdown::render(&run));
}

fn known_as(day: i8, flaky: bool) -> Known {
    Known {
        reason: "the proxy answers <b>itself</b>; issue 12".into(),
        until: jiff::civil::date(2026, 8, day),
        flaky,
        expired: day < 22,
    }
}

/// A run with a list of known failures; each entry's case ends as given, or is not selected.
fn listed(entries: &[(&str, Known, Option<VerdictName>)], aborted: bool, counted: Strictness) -> Run {
    let listed = Listed {
        file: "known-failing.yaml".into(),
        entries: entries
            .iter()
            .map(|(id, known, _)| ((*id).into(), known.clone()))
            .collect(),
    };
    let mut cases = vec![case("SLOT-01", VerdictName::Pass, &[Seed::A1])];
    cases.extend(entries.iter().filter_map(|(id, known, verdict)| {
        let failed = *verdict == Some(VerdictName::Fail);
        Some(CaseResult {
            known: Some(known.clone()),
            expected: if failed { vec!["OK".into()] } else { vec![] },
            actual: failed.then(|| "-ERR".into()),
            ..case(id, (*verdict)?, &[Seed::A1])
        })
    }));
    let abort = aborted.then(|| Abort {
        kind: AbortKind::Interrupted,
        message: "SIGINT".into(),
    });
    let mut run = run_of(cases, abort, counted);
    run.summary.known = Some(KnownFailing::of(&listed, &run.cases, aborted, counted));
    run
}

/// Everything that can come of an entry.
fn known() -> Run {
    use VerdictName::{Fail, Pass, Unsupported};
    let entries = [
        ("SLOT-02", known_as(30, false), Some(Fail)),
        ("SLOT-03", known_as(30, false), Some(Pass)),
        ("SLOT-04", known_as(21, false), Some(Fail)),
        ("SLOT-05", known_as(30, true), Some(Fail)),
        ("SLOT-06", known_as(30, true), Some(Pass)),
        ("SLOT-07", known_as(30, false), Some(Unsupported)),
        ("SLOT-08", known_as(30, false), None),
    ];
    listed(&entries, false, Strictness::default())
}

const ALL_REQUIRED: Strictness = Strictness {
    strict: false,
    require_all: true,
};

#[rstest]
#[case::failed_as_known(Some(VerdictName::Fail), known_as(30, false), 0)]
#[case::on_its_last_day(Some(VerdictName::Fail), known_as(22, false), 0)]
#[case::failed_after_its_date(Some(VerdictName::Fail), known_as(21, false), 1)]
#[case::passed(Some(VerdictName::Pass), known_as(30, false), 1)]
#[case::passed_after_its_date(Some(VerdictName::Pass), known_as(21, false), 1)]
#[case::broke(Some(VerdictName::Error), known_as(30, false), 3)]
#[case::unsupported(Some(VerdictName::Unsupported), known_as(30, false), 0)]
#[case::blocked_after_its_date(Some(VerdictName::Blocked), known_as(21, false), 0)]
#[case::not_selected(None, known_as(30, false), 0)]
#[case::not_selected_after_its_date(None, known_as(21, false), 0)]
#[case::flaky_passed(Some(VerdictName::Pass), known_as(30, true), 0)]
#[case::flaky_failed(Some(VerdictName::Fail), known_as(30, true), 0)]
#[case::flaky_broke(Some(VerdictName::Error), known_as(30, true), 0)]
#[case::flaky_failed_after_its_date(Some(VerdictName::Fail), known_as(21, true), 1)]
#[case::flaky_passed_after_its_date(Some(VerdictName::Pass), known_as(21, true), 1)]
fn what_is_known_decides_the_exit_code_and_bends_no_verdict(
    #[case] verdict: Option<VerdictName>,
    #[case] known: Known,
    #[case] code: u8,
) {
    let run = listed(&[("SLOT-02", known, verdict)], false, Strictness::default());
    assert_eq!(redis_cluster_conformance::exit::of(&run), code);
    let without = run_of(run.cases.clone(), None, Strictness::default());
    assert_eq!(run.summary.verdict, without.summary.verdict);
    let counted = parse(&junit::render(&run).unwrap());
    let red =
        counted.elements.get("failure").copied().unwrap_or(0) + counted.elements.get("error").copied().unwrap_or(0);
    assert_eq!(red == 0, code == 0, "{counted:?}");
}

#[rstest]
#[case::unsupported_is_asked_for(VerdictName::Unsupported, known_as(30, false), false, ALL_REQUIRED, 1)]
#[case::blocked_is_asked_for_of_flaky_ones_too(VerdictName::Blocked, known_as(30, true), false, ALL_REQUIRED, 1)]
#[case::known_and_all_required(VerdictName::Fail, known_as(30, false), false, ALL_REQUIRED, 0)]
#[case::interrupted(VerdictName::Fail, known_as(30, false), true, Strictness::default(), 3)]
#[case::interrupted_with_an_untrue_entry(VerdictName::Pass, known_as(30, false), true, Strictness::default(), 1)]
fn what_is_known_excuses_nothing_else(
    #[case] verdict: VerdictName,
    #[case] known: Known,
    #[case] aborted: bool,
    #[case] counted: Strictness,
    #[case] code: u8,
) {
    let run = listed(&[("SLOT-02", known, Some(verdict))], aborted, counted);
    assert_eq!(redis_cluster_conformance::exit::of(&run), code);
}

/// The run of [`every_verdict`] after a change that did everything that a change can do.
fn changed() -> Run {
    use VerdictName::{Blocked, Error, Fail, Pass, Skipped, Unsupported};
    let mut run = every_verdict();
    run.run_id = "m4ym".into();
    run.suite.commit = None;
    run.target.descriptor = [("manifest", "redis|cluster.yaml"), ("namespace", "rcc-m4ym")]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into();
    run.server.as_mut().unwrap().version = "7.0.15".into();
    let ends = [
        ("BOOT-01", Fail),
        ("SLOT-01", Unsupported),
        ("SLOT-02", Pass),
        ("AUTH-01", Fail),
        ("REPL-01", Pass),
        ("SLOT-04", Pass),
        ("HASH-01", Error),
        ("FAIL-01", Blocked),
        ("FAIL-02", Skipped),
    ];
    for (id, verdict) in ends {
        let result = run.cases.iter_mut().find(|result| result.id == id).unwrap();
        result.verdict = verdict;
        result.known = (id == "BOOT-01").then(|| known_as(30, false));
        result.cause = (verdict == Fail).then(|| "*not* <whole>".into());
    }
    run.cases.retain(|result| result.id != "HASH-02");
    run.cases.push(case("TOPO-01", Fail, &[]));
    let measured = &mut run
        .cases
        .iter_mut()
        .find(|result| result.id == "FAIL-01")
        .unwrap()
        .measured;
    measured[0].value = 17.5;
    measured.push(Measurement {
        unit: "keys".into(),
        ..figure("keys lost", 2.0, None, None)
    });
    let card = run.scorecard.as_mut().unwrap();
    card.trials[1].lost.clear();
    card.trials[1].problem = None;
    card.trials[0].phantom = vec!["42".into()];
    run.summary = Summary::of(&run.cases, false, Strictness::default());
    run
}

fn before() -> Run {
    let mut run = every_verdict();
    let measured = &mut run
        .cases
        .iter_mut()
        .find(|result| result.id == "FAIL-01")
        .unwrap()
        .measured;
    measured.push(Measurement {
        unit: "keys".into(),
        ..figure("keys lost", 0.0, None, None)
    });
    run
}

/// Trials whose failovers took so long, one each.
fn with_trials(gaps: &[f64]) -> Run {
    let trials = gaps.iter().enumerate().map(|(at, gap)| Trial {
        number: at + 1,
        figures: [(Figure::WriteGap, *gap)].into(),
        ..scorecard().trials[0].clone()
    });
    Run {
        scorecard: Some(Scorecard::of("kill", gaps.len(), trials.collect(), |_| (None, None))),
        ..conformant()
    }
}

#[rstest]
#[case::everything("compare", before(), changed())]
#[case::nothing("compare-same", conformant(), conformant())]
#[case::trials("compare-trials", with_trials(&[7.0, 7.5, 8.0]), with_trials(&[9.0, 9.5, 12.0]))]
#[case::broken_off("compare-aborted", conformant(), aborted())]
#[case::many_alike("compare-many", many(false), many(true))]
fn comparisons_are_as_kept(#[case] name: &str, #[case] before: Run, #[case] after: Run) {
    let comparison = Comparison::of(("main/run.json", &before), ("pr/run.json", &after));
    same_as_file(golden(&format!("{name}.txt")), &compare::text(&comparison));
    same_as_file(golden(&format!("{name}.md")), &compare::markdown(&comparison));
    let json = serde_json::to_string_pretty(&comparison).unwrap() + "\n";
    same_as_file(golden(&format!("{name}.json")), &json);
    assert_eq!(serde_json::from_str::<Comparison>(&json).unwrap(), comparison);
}

/// A cell whose run ended with a code after so many seconds, and what it left.
fn cell(name: &str, code: Option<u8>, seconds: i64, message: Option<&str>, run: Option<Run>) -> Cell {
    let arguments = vec![
        "--target".to_owned(),
        "docker".into(),
        "--image".into(),
        format!("{name}:1"),
    ];
    let started: jiff::Timestamp = "2026-08-22T10:00:00Z".parse().unwrap();
    Cell {
        name: name.into(),
        record: Some(Record {
            schema_version: SCHEMA_VERSION.into(),
            cell: name.into(),
            arguments: arguments.clone(),
            started,
            ended: started + jiff::SignedDuration::from_secs(seconds),
            exit_code: code,
            message: message.map(str::to_owned),
        }),
        arguments,
        run,
    }
}

fn not_run() -> Cell {
    Cell {
        record: None,
        ..cell("later", None, 0, None, None)
    }
}

/// Cells that ended in every way, two of them with cases in common and cases that the other has not.
fn matrix() -> Matrix {
    let elsewhere = Cell {
        arguments: vec!["SLOT".into(), "--image".into(), "two words".into()],
        ..cell("changed", Some(1), 4000, None, Some(changed()))
    };
    Matrix {
        list: "manifests/matrix.yaml".into(),
        folder: "out/ma trix".into(),
        cells: vec![
            cell("conformant", Some(0), 61, None, Some(conformant())),
            cell("every-verdict", Some(1), 59, None, Some(every_verdict())),
            elsewhere,
            cell("known", Some(0), 3, None, Some(known_alone())),
            cell("aborted", Some(3), 30, None, Some(aborted())),
            cell("no-run", Some(2), 0, Some("a|b.yaml: <b>no such file</b>"), None),
            cell("killed", None, 1, None, None),
            cell("empty", Some(3), 1, None, Some(empty())),
            not_run(),
        ],
    }
}

/// A run in which nothing failed but what is known.
fn known_alone() -> Run {
    let entries = [("SLOT-02", known_as(30, false), Some(VerdictName::Fail))];
    listed(&entries, false, Strictness::default())
}

/// The cells of a matrix without what was in their folders, and with what a page has of them.
fn from_the_page_alone(matrix: &Matrix, kept: &[(Record, Option<Run>)]) -> Matrix {
    let cells = matrix.cells.iter().map(|cell| {
        let bare = Cell {
            record: None,
            run: None,
            ..cell.clone()
        };
        bare.or_kept(kept)
    });
    Matrix {
        cells: cells.collect(),
        ..matrix.clone()
    }
}

/// What a case was to the suite that judged it does not change by what it is to a later one.
#[test]
fn a_cell_of_another_suite_keeps_its_cases_and_its_verdict() {
    let mut earlier = changed();
    for case in &mut earlier.cases {
        case.level = Level::Should;
    }
    earlier.summary = Summary::of(&earlier.cases, false, Strictness::default());
    let cells = vec![
        cell("changed", Some(1), 1, None, Some(changed())),
        cell("earlier", Some(0), 1, None, Some(earlier.clone())),
    ];
    let all = Matrix { cells, ..matrix() };
    let folder = tempfile::tempdir().unwrap();
    let page = folder.path().join("page.md");
    matrix::write(&all, &page).unwrap();
    let kept = matrix::kept::read(&matrix::kept::beside(&page)).unwrap();
    let again = kept[1].1.as_ref().unwrap();
    assert!(again.cases.iter().all(|case| case.level == Level::Should));
    assert_eq!(again.summary.verdict, earlier.summary.verdict);
    assert_eq!(
        matrix::markdown(&from_the_page_alone(&all, &kept)),
        matrix::markdown(&all)
    );
}

#[test]
fn a_page_can_be_made_from_what_is_kept_beside_it() {
    let folder = tempfile::tempdir().unwrap();
    let page = folder.path().join("page.md");
    matrix::write(&matrix(), &page).unwrap();
    let kept = matrix::kept::read(&matrix::kept::beside(&page)).unwrap();
    let again = from_the_page_alone(&matrix(), &kept);
    pretty_assertions::assert_eq!(matrix::markdown(&again), matrix::markdown(&matrix()));
    assert_eq!(matrix::text(&again), matrix::text(&matrix()));
}

/// What is in a cell's folder counts, unless the page has a later run.
#[rstest]
#[case::later_here(60, "1 of 2")]
#[case::later_there(-60, "2 of 2")]
fn of_two_runs_of_a_cell_the_later_counts(#[case] seconds: i64, #[case] expected: &str) {
    let mut here = cell("a", Some(1), 1, Some("1 of 2"), None);
    let there = cell("a", Some(1), 1, Some("2 of 2"), None);
    let record = here.record.as_mut().unwrap();
    record.started += jiff::SignedDuration::from_secs(seconds);
    let chosen = here.or_kept(&[(there.record.unwrap(), None)]);
    assert_eq!(chosen.record.unwrap().message.as_deref(), Some(expected));
}

#[rstest]
#[case::nothing("", "does not hold the cells of a page")]
#[case::another_version(r#"{"schemaVersion": "9.0", "cases": [], "cells": []}"#, "9.0")]
fn what_is_beside_a_page_and_no_data_of_it_is_refused(#[case] text: &str, #[case] told: &str) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("page.json");
    std::fs::write(&path, text).unwrap();
    let error = format!("{:#}", matrix::kept::read(&path).unwrap_err());
    assert!(error.contains(told) && error.contains("page.json"), "{error}");
}

/// The page that is checked in is that of its data.
#[test]
fn the_page_of_the_project_is_made_from_its_data() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let listed = redis_cluster_conformance::matrix::read(&root.join("manifests/matrix.yaml")).unwrap();
    let kept = matrix::kept::read(&root.join("docs/conformance.json")).unwrap();
    let cells = listed.into_iter().map(|listed| {
        let cell = Cell {
            name: listed.name,
            arguments: listed.arguments,
            record: None,
            run: None,
        };
        cell.or_kept(&kept)
    });
    let now = matrix::markdown(&Matrix {
        list: "manifests/matrix.yaml".into(),
        folder: "out/matrix".into(),
        cells: cells.collect(),
    });
    pretty_assertions::assert_eq!(std::fs::read_to_string(root.join("docs/conformance.md")).unwrap(), now);
}

#[test]
fn matrices_are_as_kept() {
    same_as_file(golden("matrix.txt"), &matrix::text(&matrix()));
    same_as_file(golden("matrix.md"), &matrix::markdown(&matrix()));
    let unrun = Matrix {
        cells: vec![not_run()],
        ..matrix()
    };
    same_as_file(golden("matrix-unrun.md"), &matrix::markdown(&unrun));
}

#[test]
fn a_case_that_is_not_judged_is_never_counted_as_passed() {
    let page = matrix::markdown(&matrix());
    let row = |id: &str| {
        page.lines()
            .find(|line| line.starts_with(&format!("| {id} |")))
            .unwrap()
            .to_owned()
    };
    // Unsupported in one cell, passed in another, not selected in the rest, and never run where the run was aborted.
    let cells: Vec<String> = row("SLOT-04").split('|').map(|part| part.trim().to_owned()).collect();
    assert_eq!(cells[3..], ["–", "unsupported", "pass", "–", ""]);
    assert!(
        !page.contains("| SLOT-03 |"),
        "what passed in every cell that ran it has no row"
    );
}

#[test]
fn a_table_of_a_matrix_has_as_many_columns_in_each_row() {
    use pulldown_cmark::{Event, Options, Parser, Tag, TagEnd};
    let page = matrix::markdown(&matrix());
    let (mut counts, mut cells) = (Vec::new(), 0);
    for event in Parser::new_ext(&page, Options::ENABLE_TABLES) {
        match event {
            Event::Start(Tag::TableCell) => cells += 1,
            Event::End(TagEnd::TableRow | TagEnd::TableHead) => counts.push(std::mem::take(&mut cells)),
            _ => {}
        }
    }
    // The reader pads short rows and cuts long ones; so the source must agree with what it found.
    let rows: Vec<usize> = (page.lines().filter(|line| line.starts_with("| ")))
        .map(|line| line.replace("\\|", "").matches('|').count() - 1)
        .collect();
    assert_eq!(counts, rows);
    assert!(counts.len() > 12, "{counts:?}");
}

#[test]
fn the_command_line_of_a_cell_can_be_typed() {
    let cells = matrix().cells;
    let typed = |at: usize| cells[at].command_line("out/ma trix");
    assert_eq!(
        typed(0),
        "redis-cluster-conformance run --target docker --image conformant:1 --out 'out/ma trix/conformant'"
    );
    // What ran, and not what the list asks for by now.
    assert!(typed(2).contains("--image changed:1"), "{}", typed(2));
    let words = shlex::split(&typed(0)).unwrap();
    assert_eq!(words.last().unwrap(), "out/ma trix/conformant");
}

#[rstest]
#[case::passed(cell("a", Some(0), 1, None, Some(conformant())), true)]
#[case::failed(cell("a", Some(1), 1, None, Some(changed())), true)]
#[case::another_was_asked_for(Cell { arguments: vec![], ..cell("a", Some(0), 1, None, Some(conformant())) }, false)]
#[case::undecided(cell("a", Some(3), 1, None, Some(empty())), false)]
#[case::aborted(cell("a", Some(3), 1, None, Some(aborted())), false)]
#[case::killed(cell("a", None, 1, None, Some(conformant())), false)]
#[case::no_run(cell("a", Some(2), 1, None, None), false)]
#[case::never_ended(Cell { record: None, ..cell("a", Some(0), 1, None, Some(conformant())) }, false)]
fn a_cell_is_done_when_it_came_to_a_verdict_by_the_same_options(#[case] cell: Cell, #[case] done: bool) {
    assert_eq!(cell.is_done(), done);
}

#[test]
fn a_cell_is_read_back_from_its_folder() {
    let folder = tempfile::tempdir().unwrap();
    let kept = cell("a", Some(1), 5, None, Some(every_verdict()));
    let read = || Cell::read("a", &kept.arguments, folder.path());
    write(&every_verdict(), folder.path()).unwrap();
    assert!(read().unwrap().run.is_none(), "a run without a record has not ended");
    kept.record.as_ref().unwrap().write(folder.path()).unwrap();
    let back = read().unwrap();
    assert_eq!((back.record, back.run), (kept.record.clone(), kept.run.clone()));
    std::fs::write(folder.path().join(matrix::RECORD), "{}").unwrap();
    let error = format!("{:#}", read().unwrap_err());
    assert!(error.contains("cell.json is not the record of a cell"), "{error}");
}

#[rstest]
#[case::all_passed(&[Some(0), Some(0)], 0)]
#[case::one_failed(&[Some(0), Some(1), Some(3)], 1)]
#[case::one_failed_after_another_broke(&[Some(2), Some(0), Some(1)], 1)]
#[case::one_broke(&[Some(0), Some(3), Some(0)], 3)]
#[case::an_image_is_lacking(&[Some(2), Some(0)], 3)]
#[case::nothing_was_selected(&[Some(4)], 3)]
#[case::killed_or_not_run(&[Some(0), None], 3)]
fn matrices_have_their_exit_codes(#[case] cells: &[Option<u8>], #[case] code: u8) {
    assert_eq!(redis_cluster_conformance::exit::of_matrix(cells.iter().copied()), code);
}

#[test]
fn every_pair_of_verdicts_is_a_change_or_none() {
    use ChangeKind::{Broken, Fixed, Judged, Supported, Unjudged, Unsupported};
    let short = |kind: Option<ChangeKind>| match kind {
        None => ".",
        Some(Broken) => "b",
        Some(Fixed) => "f",
        Some(Supported) => "s",
        Some(Judged) => "j",
        Some(Unsupported) => "u",
        Some(Unjudged) => "n",
        Some(other) => panic!("{other:?} is not of two verdicts"),
    };
    // Rows: before; columns: after. Pass, fail, error, blocked, unsupported, skipped.
    let table: Vec<String> = VerdictName::ALL
        .iter()
        .map(|before| {
            VerdictName::ALL
                .iter()
                .map(|after| short(ChangeKind::of(*before, *after)))
                .collect()
        })
        .collect();
    assert_eq!(table, [".bnnun", "f.nnun", "jb....", "jbn...", "sbn...", "jbn..."]);
}

#[rstest]
#[case::broken(VerdictName::Pass, VerdictName::Fail, &[Worse::Broken], 1)]
#[case::nothing_counts(VerdictName::Pass, VerdictName::Fail, &[], 0)]
#[case::something_else_counts(VerdictName::Pass, VerdictName::Fail, &[Worse::Unsupported], 0)]
#[case::fixed(VerdictName::Fail, VerdictName::Pass, &[Worse::Broken], 0)]
#[case::failing_as_before(VerdictName::Fail, VerdictName::Fail, &[Worse::Broken], 0)]
#[case::unsupported(VerdictName::Pass, VerdictName::Unsupported, &[Worse::Broken], 0)]
#[case::unsupported_counts(VerdictName::Pass, VerdictName::Unsupported, &[Worse::Broken, Worse::Unsupported], 1)]
#[case::the_suite_broke(VerdictName::Pass, VerdictName::Error, &[Worse::Broken], 3)]
#[case::the_suite_broke_and_that_counts(VerdictName::Pass, VerdictName::Error, &[Worse::Unjudged], 1)]
#[case::the_suite_broke_before(VerdictName::Error, VerdictName::Pass, &[Worse::Broken], 3)]
fn the_exit_code_of_a_comparison(
    #[case] before: VerdictName,
    #[case] after: VerdictName,
    #[case] counts: &[Worse],
    #[case] code: u8,
) {
    let run = |verdict| {
        let cases = vec![case("SLOT-01", VerdictName::Pass, &[]), case("SLOT-02", verdict, &[])];
        run_of(cases, None, Strictness::default())
    };
    let comparison = Comparison::of(("a", &run(before)), ("b", &run(after)));
    assert_eq!(
        redis_cluster_conformance::exit::of_comparison(&comparison, counts),
        code
    );
}

#[rstest]
#[case::broke_beside_a_failure(VerdictName::Error, None, 3)]
#[case::broke_but_flaky(VerdictName::Error, Some(known_as(30, true)), 0)]
#[case::broke_and_no_longer_flaky(VerdictName::Error, Some(known_as(21, true)), 3)]
#[case::failed(VerdictName::Fail, None, 1)]
#[case::failed_as_known(VerdictName::Fail, Some(known_as(30, false)), 0)]
#[case::passed(VerdictName::Pass, None, 0)]
fn a_case_that_is_new_counts_beside_one_that_failed_before(
    #[case] verdict: VerdictName,
    #[case] known: Option<Known>,
    #[case] code: u8,
) {
    let failed = case("SLOT-01", VerdictName::Fail, &[]);
    let new = CaseResult {
        known,
        ..case("SLOT-02", verdict, &[])
    };
    let before = run_of(vec![failed.clone()], None, Strictness::default());
    let after = run_of(vec![failed, new], None, Strictness::default());
    let comparison = Comparison::of(("a", &before), ("b", &after));
    assert_eq!(
        redis_cluster_conformance::exit::of_comparison(&comparison, &[Worse::Broken]),
        code
    );
}

#[rstest]
#[case::listed(VerdictName::Pass, VerdictName::Fail, known_as(30, false), ChangeKind::Known)]
#[case::listed_but_expired(VerdictName::Pass, VerdictName::Fail, known_as(21, false), ChangeKind::Broken)]
#[case::listed_and_repaired(VerdictName::Fail, VerdictName::Pass, known_as(30, false), ChangeKind::Fixed)]
#[case::flaky(VerdictName::Pass, VerdictName::Fail, known_as(30, true), ChangeKind::Known)]
#[case::flaky_the_other_way(VerdictName::Fail, VerdictName::Pass, known_as(30, true), ChangeKind::Known)]
#[case::flaky_but_expired(VerdictName::Pass, VerdictName::Fail, known_as(21, true), ChangeKind::Broken)]
fn what_is_known_is_no_change_for_the_worse(
    #[case] before: VerdictName,
    #[case] after: VerdictName,
    #[case] known: Known,
    #[case] kind: ChangeKind,
) {
    let run = |verdict| {
        listed(
            &[("SLOT-02", known.clone(), Some(verdict))],
            false,
            Strictness::default(),
        )
    };
    let comparison = Comparison::of(("a", &run(before)), ("b", &run(after)));
    assert_eq!(comparison.changes[0].kind, kind);
}

#[test]
fn what_counts_in_a_comparison_is_found_by_its_name() {
    let (before, after) = (before(), changed());
    let comparison = Comparison::of(("a", &before), ("b", &after));
    let found: Vec<bool> = [
        Worse::Broken,
        Worse::Unsupported,
        Worse::Unjudged,
        Worse::Removed,
        Worse::Slower,
        Worse::Lossier,
        Worse::Different,
    ]
    .map(|worse| comparison.is(worse))
    .into();
    // TOPO-01, which is new, is broken; a case's single time is longer, which is not slower.
    assert_eq!(found, [true, true, true, true, false, true, true]);
    // BOOT-01 fails too, and is known.
    let mut known_alone = after.clone();
    known_alone.cases.retain(|result| result.id != "TOPO-01");
    assert!(!Comparison::of(("a", &before), ("b", &known_alone)).is(Worse::Broken));
    let (quick, slow) = (with_trials(&[6.0, 6.1, 6.2]), with_trials(&[9.0, 9.1, 9.2]));
    assert!(Comparison::of(("a", &quick), ("b", &slow)).is(Worse::Slower));
    let same = Comparison::of(("a", &before), ("b", &before));
    assert!(!same.is(Worse::Different) && !same.is(Worse::Slower) && !same.is(Worse::Lossier));
}

#[test]
fn runs_with_no_case_in_common_are_not_compared() {
    let (one, other) = (
        conformant(),
        run_of(
            vec![case("HASH-01", VerdictName::Pass, &[])],
            None,
            Strictness::default(),
        ),
    );
    let comparison = Comparison::of(("a", &one), ("b", &other));
    assert_eq!(
        redis_cluster_conformance::exit::of_comparison(&comparison, &[Worse::Broken]),
        4
    );
}

/// Ten runs: one failed, one should wavered, one was interrupted.
fn repeated() -> repeat::Repeat {
    use VerdictName::{Fail, Pass, Skipped, Unsupported};
    let run = |number: usize| {
        let should = CaseResult {
            level: Level::Should,
            ..case(
                "SLOT-05",
                if number.is_multiple_of(2) { Pass } else { Fail },
                &[Seed::A1],
            )
        };
        let failed = CaseResult {
            evidence: Some("evidence/FAIL-11".into()),
            ..case("FAIL-11", Fail, &[Seed::A5])
        };
        let mut cases = vec![
            case("SLOT-01", Pass, &[Seed::A1]),
            should,
            if number == 7 {
                failed
            } else {
                case("FAIL-11", Pass, &[Seed::A5])
            },
            case("BOOT-01", Unsupported, &[Seed::A6]),
        ];
        let interrupted = (number == 10).then(|| Abort {
            kind: AbortKind::Interrupted,
            message: "the run was interrupted by a signal".into(),
        });
        if interrupted.is_some() {
            cases[2] = case("FAIL-11", Skipped, &[Seed::A5]);
        }
        run_of(cases, interrupted, Strictness::default())
    };
    let runs: Vec<(Run, u8)> = (1..=10)
        .map(run)
        .map(|run| {
            let code = redis_cluster_conformance::exit::of(&run);
            (run, code)
        })
        .collect();
    repeat::Repeat::of(12, &runs)
}

#[test]
fn a_changed_verdict_is_loud() {
    let repeated = repeated();
    let text = repeated.render(Path::new("out"));
    assert!(
        text.contains("CHANGED: FAIL-11 pass ×8, fail ×1 (run 7), see out/7/evidence/FAIL-11\n"),
        "{text}"
    );
    assert_eq!(repeated.exit_code(), 1);
    same_as_file(golden("repeat.txt"), &text);
    let folder = tempfile::tempdir().unwrap();
    let path = repeated.write(folder.path()).unwrap();
    same_as_file(golden("repeat.json"), &std::fs::read_to_string(path).unwrap());
}

#[rstest]
#[case::all_well(&[VerdictName::Pass, VerdictName::Pass], 0)]
#[case::one_broke(&[VerdictName::Pass, VerdictName::Pass, VerdictName::Error], 1)]
#[case::all_broke(&[VerdictName::Error, VerdictName::Error], 3)]
#[case::all_failed(&[VerdictName::Fail, VerdictName::Fail], 1)]
#[case::changed_without_a_failure(&[VerdictName::Pass, VerdictName::Unsupported], 1)]
fn the_exit_code_of_repeated_runs(#[case] verdicts: &[VerdictName], #[case] code: u8) {
    let runs: Vec<(Run, u8)> = verdicts
        .iter()
        .map(|verdict| {
            let cases = vec![case("SLOT-01", *verdict, &[]), case("SLOT-02", VerdictName::Pass, &[])];
            let run = run_of(cases, None, Strictness::default());
            let code = redis_cluster_conformance::exit::of(&run);
            (run, code)
        })
        .collect();
    assert_eq!(repeat::Repeat::of(verdicts.len(), &runs).exit_code(), code);
}

/// A run of which every text would act if the page let it: the last one is longer than any line.
fn hostile() -> Run {
    let acts = "\"'><script>alert(1)</script><img src=x onerror=alert(2)>\u{202e}gnp.exe\u{0}\u{1b}[31m{{ 7 }}&lt;</style></title>";
    let long = "x".repeat(20_000);
    fn poison(value: serde_json::Value, acts: &str) -> serde_json::Value {
        use serde_json::Value;
        match value {
            Value::Array(items) => items.into_iter().map(|item| poison(item, acts)).collect(),
            Value::Object(fields) => fields
                .into_iter()
                .map(|(name, value)| match (name.as_str(), &value) {
                    // What is one of a few words or an instant cannot be anything else: the file would not be read.
                    (
                        "level" | "profile" | "impact" | "verdict" | "result" | "kind" | "seed" | "started" | "ended"
                        | "at",
                        _,
                    )
                    | ("schemaVersion", _) => (name, value),
                    ("descriptor", _) => (name, serde_json::json!({ acts: acts })),
                    (_, Value::String(_)) => (name, Value::String(acts.into())),
                    _ => (name, poison(value, acts)),
                })
                .collect(),
            Value::String(_) => Value::String(acts.into()),
            other => other,
        }
    }
    let text = json::render(&every_verdict()).unwrap();
    let mut run = json::parse(&poison(serde_json::from_str(&text).unwrap(), acts).to_string()).unwrap();
    run.cases[2].actual = Some(long.clone());
    run.cases[3].cause = Some(long);
    run.cases[4].evidence = Some("javascript:alert(3)".into());
    run
}

#[test]
fn nothing_in_a_run_acts_on_the_page() {
    let page = html::render(&hostile()).unwrap();
    assert_eq!(page.matches("<script").count(), 1, "the page's own");
    assert_eq!(page.matches("</script").count(), 1);
    assert_eq!(page.matches("</style").count(), 1);
    assert_eq!(page.matches("</title").count(), 1);
    assert!(!page.contains("<img"));
    assert!(!page.contains("href=\"javascript:"));
    assert!(page.contains("javascript:alert(3)"), "shown, and no link");
    let acts =
        |character: char| character != '\n' && (character.is_control() || "\u{202e}\u{2066}".contains(character));
    assert_eq!(page.chars().find(|character| acts(*character)), None);
    assert!(
        page.contains("\\u{202e}gnp.exe\\x00\\x1b[31m{{ 7 }}&#38;lt;"),
        "shown, and not taken for anything"
    );
    for outside in ["http://", "https://", "@import", "url(", " src="] {
        let own = page.matches(outside).count();
        let expected = usize::from(outside == " src=") * page.matches("&#60;img src=x").count();
        assert_eq!(own, expected, "{outside}: the page asks for nothing from elsewhere");
    }
}

#[test]
fn the_page_says_why_something_is_not_drawn() {
    let page = html::render(&aborted()).unwrap();
    for why in [
        "no server was reached",
        "the run made no trials",
        "No phase of the run was timed",
        "No case failed",
    ] {
        assert!(page.contains(why), "{why}");
    }
    let page = html::render(&empty()).unwrap();
    assert!(page.contains("No case was selected: nothing was judged"));
}

#[test]
fn the_schema_is_as_kept() {
    same_as_file(
        Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/run.schema.json"),
        &json::schema().unwrap(),
    );
}

#[rstest]
#[case(every_verdict())]
#[case(aborted())]
#[case(empty())]
fn a_run_comes_back_as_it_was_written(#[case] run: Run) {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    write(&run, &out).unwrap();
    write(&run, &out).unwrap();
    assert_eq!(json::read(&out.join(json::FILE)).unwrap(), run);
    let mut names: Vec<_> = std::fs::read_dir(&out)
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    names.sort();
    assert_eq!(
        names,
        ["junit.xml", "report.html", "run.json", "summary.md"],
        "nothing temporary stays"
    );
}

#[test]
fn a_run_of_another_version_or_none_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(json::FILE);
    for (text, says) in [
        (r#"{"schemaVersion": "99"}"#, "\"99\""),
        (r#"{"schemaVersion": "1"}"#, "\"1\""),
        (
            r#"{"schemaVersion": "2.0", "suite": {"version": "3.1.4"}}"#,
            "\"2.0\", written by suite 3.1.4; this suite",
        ),
        ("{}", "schemaVersion"),
        (r#"{"schemaVersion": "1""#, "EOF"),
    ] {
        std::fs::write(&path, text).unwrap();
        let error = format!("{:#}", json::read(&path).unwrap_err());
        assert!(error.contains("run.json") && error.contains(says), "{error}");
    }
}

/// What a newer minor version adds is no obstacle where it is a field, and named where it is a word that must be known.
#[test]
fn a_run_of_a_newer_minor_version_is_read() {
    let run = every_verdict();
    let newer = json::render(&run)
        .unwrap()
        .replace("\"schemaVersion\": \"1.0\"", "\"schemaVersion\": \"1.1234\"")
        .replace("\"title\":", "\"new\": {\"field\": [1]}, \"title\":");
    let read = json::parse(&newer).unwrap();
    assert_eq!((read.schema_version.as_str(), &read.cases), ("1.1234", &run.cases));
    let error = json::parse(&newer.replace("\"read-only\"", "\"whispers\"")).unwrap_err();
    let error = format!("{error:#}");
    assert!(error.contains("newer than") && error.contains("whispers"), "{error}");
}

#[rstest]
#[case::nothing(vec![], false, Strictness::default(), Conformance::Undecided)]
#[case::nothing_judged(vec![VerdictName::Skipped], false, Strictness::default(), Conformance::Undecided)]
#[case::nothing_supported(vec![VerdictName::Unsupported], false, Strictness::default(), Conformance::Undecided)]
#[case::aborted(vec![VerdictName::Pass], true, Strictness::default(), Conformance::Undecided)]
#[case::broke(vec![VerdictName::Pass, VerdictName::Error], false, Strictness::default(), Conformance::Undecided)]
#[case::all_asked_for(
    vec![VerdictName::Pass, VerdictName::Unsupported],
    false,
    Strictness { strict: false, require_all: true },
    Conformance::NotConformant
)]
#[case::some_unsupported(
    vec![VerdictName::Pass, VerdictName::Unsupported],
    false,
    Strictness::default(),
    Conformance::Conformant
)]
fn junit_is_green_only_where_the_verdict_is(
    #[case] verdicts: Vec<VerdictName>,
    #[case] aborted: bool,
    #[case] counted: Strictness,
    #[case] expected: Conformance,
) {
    let cases = verdicts
        .into_iter()
        .map(|verdict| case("SLOT-01", verdict, &[]))
        .collect();
    let abort = aborted.then(|| Abort {
        kind: AbortKind::Interrupted,
        message: "SIGINT".into(),
    });
    let run = run_of(cases, abort, counted);
    assert_eq!(run.summary.verdict, expected);
    let counted = parse(&junit::render(&run).unwrap());
    let red =
        counted.elements.get("failure").copied().unwrap_or(0) + counted.elements.get("error").copied().unwrap_or(0);
    assert_eq!(red == 0, expected == Conformance::Conformant, "{counted:?}");
}

/// A `should` that failed is red where it counts.
#[rstest]
#[case::let_pass(false, exit::CONFORMANT)]
#[case::counted(true, exit::NOT_CONFORMANT)]
fn junit_is_red_for_a_should_where_the_exit_code_is(#[case] strict: bool, #[case] code: u8) {
    let failed = CaseResult {
        level: Level::Should,
        ..case("SLOT-02", VerdictName::Fail, &[])
    };
    let counted = Strictness {
        strict,
        ..Strictness::default()
    };
    let run = run_of(vec![case("SLOT-01", VerdictName::Pass, &[]), failed], None, counted);
    assert_eq!(exit::of(&run), code);
    let text = junit::render(&run).unwrap();
    assert_eq!(parse(&text).elements.contains_key("failure"), strict, "{text}");
}

#[test]
fn what_is_unsupported_is_nowhere_counted_as_passed() {
    let cases = [("SLOT-01", Seed::A1), ("HASH-01", Seed::A4)];
    let cases = cases.map(|(id, seed)| case(id, VerdictName::Unsupported, &[seed]));
    let run = run_of(cases.into(), None, Strictness::default());
    assert_eq!(exit::of(&run), exit::BROKEN);
    let judged = serde_json::to_value(&run.summary).unwrap();
    assert_eq!(judged["verdict"], "undecided");
    for group in [
        &judged["total"],
        &judged["profiles"]["core"],
        &judged["seed"]["A1"],
        &judged["seed"]["A4"],
    ] {
        assert_eq!(group["result"], "unknown", "{judged}");
        assert_eq!(group["verdicts"].get("pass"), None, "{judged}");
    }
    let page = html::render(&run).unwrap();
    assert!(page.contains("unknown") && !page.contains("partial\">"), "{page}");
    for text in [terminal::render(&run, false, None, None), markdown::render(&run)] {
        let flat = text.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(flat.contains("UNDECIDED: no case was judged; 2 not judged"), "{text}");
        assert!(flat.contains("0 of 1 passed; 1 unsupported"), "{text}");
        assert!(!text.contains('✅'), "{text}");
    }
    // One pass beside them is no success of the group.
    let some = [VerdictName::Pass, VerdictName::Unsupported].map(|verdict| case("SLOT-01", verdict, &[]));
    let run = run_of(some.into(), None, Strictness::default());
    let total = serde_json::to_value(&run.summary.total).unwrap();
    assert_eq!(
        (exit::of(&run), &total["result"]),
        (exit::CONFORMANT, &"partial".into())
    );
}

#[test]
fn colours_are_codes_around_the_same_text() {
    let run = every_verdict();
    let plain = terminal::render(&run, false, None, None);
    let coloured = terminal::render(&run, true, None, None);
    assert!(!plain.contains('\u{1b}') && coloured.contains('\u{1b}'));
    let stripped: String = coloured
        .split('\u{1b}')
        .enumerate()
        .map(|(at, part)| if at == 0 { part } else { part.split_once('m').unwrap().1 })
        .collect();
    let trimmed = |text: &str| text.lines().map(str::trim_end).collect::<Vec<_>>().join("\n");
    assert_eq!(trimmed(&stripped), trimmed(&plain));
}

#[rstest]
#[case(1, "pass         SLOT-01   what SLOT-01 says, in the present tense  0.03 s")]
#[case(
    4,
    "fail         AUTH-01   what AUTH-01 says, in the present tense  0.03 s\n             redis-cluster-3 does not ask for a password"
)]
#[case(
    7,
    "skipped      HASH-01   what HASH-01 says, in the present tense  0.03 s\n             left out by --skip HASH"
)]
fn a_case_has_one_line_of_progress(#[case] at: usize, #[case] line: &str) {
    assert_eq!(terminal::case_line(&every_verdict().cases[at], false), line);
}

#[test]
fn a_password_goes_out_of_every_text() {
    let mut run = every_verdict();
    let failed = &mut run.cases[2];
    for text in [&mut failed.actual, &mut failed.cause, &mut failed.reason] {
        *text = Some("requirepass hunter2".into());
    }
    failed.expected = vec!["hunter2".into()];
    failed.notes = vec!["hunter2".into()];
    run.cause = Some("hunter2".into());
    run.left_behind = vec!["hunter2".into()];
    run.target.descriptor = BTreeMap::from([("namespace".into(), "hunter2".into())]);
    run.aborted = Some(Abort {
        kind: AbortKind::Usage,
        message: "hunter2".into(),
    });
    let run = run.redacted(&Secret::new("hunter2"));
    assert!(!json::render(&run).unwrap().contains("hunter2"));
    assert!(json::render(&run).unwrap().contains("<password>"));
}

/// What a JUnit file says, by a parser that shares nothing with its writer's escaping.
#[derive(Debug, Default)]
struct Parsed {
    elements: BTreeMap<String, usize>,
    names: Vec<String>,
    totals: BTreeMap<String, usize>,
}

fn parse(xml: &str) -> Parsed {
    let allowed = |character: char| matches!(character, '\t' | '\n' | '\r' | '\u{20}'..='\u{d7ff}' | '\u{e000}'..='\u{fffd}' | '\u{10000}'..);
    assert!(xml.chars().all(allowed), "a character that XML 1.0 does not allow");
    let mut reader = quick_xml::Reader::from_str(xml);
    reader.config_mut().check_end_names = true;
    let mut parsed = Parsed::default();
    loop {
        match reader.read_event().unwrap() {
            Event::Start(tag) | Event::Empty(tag) => {
                let element = String::from_utf8(tag.name().as_ref().to_vec()).unwrap();
                for attribute in tag.attributes() {
                    let attribute = attribute.unwrap();
                    let key = String::from_utf8(attribute.key.as_ref().to_vec()).unwrap();
                    let raw = String::from_utf8(attribute.value.to_vec()).unwrap();
                    let value = quick_xml::escape::unescape(&raw).unwrap().into_owned();
                    if element == "testcase" && key == "name" {
                        parsed.names.push(value.clone());
                    }
                    if element == "testsuites"
                        && let Ok(number) = value.parse()
                    {
                        parsed.totals.insert(key, number);
                    }
                }
                *parsed.elements.entry(element).or_default() += 1;
            }
            Event::Eof => return parsed,
            Event::End(_)
            | Event::Text(_)
            | Event::CData(_)
            | Event::Comment(_)
            | Event::Decl(_)
            | Event::PI(_)
            | Event::DocType(_)
            | Event::GeneralRef(_) => {}
        }
    }
}

fn any_case() -> impl Strategy<Value = CaseResult> {
    let text = || proptest::option::of(any::<String>());
    (
        ("[A-Z]{3,4}-[0-9]{2}|\\PC{0,6}", any::<String>(), any::<String>()),
        proptest::sample::select(&VerdictName::ALL[..]),
        proptest::collection::vec(any::<String>(), 0..3),
        (text(), text(), text(), text()),
        proptest::collection::vec(any::<String>(), 0..2),
    )
        .prop_map(
            |((id, title, requirement), verdict, expected, texts, notes)| CaseResult {
                title,
                requirement,
                expected,
                actual: texts.0,
                cause: texts.1,
                reason: texts.2,
                evidence: texts.3,
                notes,
                ..case(&id, verdict, &[Seed::A1])
            },
        )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn any_run_is_valid_junit_and_the_counts_agree(
        cases in proptest::collection::vec(any_case(), 0..8),
        value in any::<String>(),
    ) {
        let mut run = run_of(cases, None, Strictness::default());
        run.target.descriptor.insert(value.clone(), value);
        let parsed = parse(&junit::render(&run).unwrap());
        let total = &run.summary.total;
        let of = |name: &str| parsed.elements.get(name).copied().unwrap_or(0);
        let of_run = usize::from(run.summary.verdict == Conformance::Undecided && total.count(VerdictName::Error) == 0);
        prop_assert_eq!(of("testcase"), run.cases.len() + 1);
        prop_assert_eq!(of("failure"), total.count(VerdictName::Fail));
        prop_assert_eq!(of("error"), total.count(VerdictName::Error) + of_run);
        let skipped = [VerdictName::Unsupported, VerdictName::Skipped, VerdictName::Blocked];
        prop_assert_eq!(of("skipped"), skipped.into_iter().map(|verdict| total.count(verdict)).sum::<usize>());
        for (attribute, element) in [
            ("tests", "testcase"), ("failures", "failure"), ("errors", "error"), ("skipped", "skipped"),
        ] {
            prop_assert_eq!(parsed.totals[attribute], of(element));
        }
    }

    #[test]
    fn any_run_comes_back_and_shows_nothing_that_acts(cases in proptest::collection::vec(any_case(), 0..4)) {
        let run = run_of(cases, None, Strictness::default());
        prop_assert_eq!(&json::parse(&json::render(&run).unwrap()).unwrap(), &run);
        let text = terminal::render(&run, false, Some(80), None);
        prop_assert!(text.chars().all(|character| character == '\n' || !character.is_control()));
        let page = html::render(&run).unwrap();
        prop_assert!(page.chars().all(|character| character == '\n' || !character.is_control()));
        prop_assert_eq!(page.matches("<script").count(), 1);
    }

    #[test]
    fn any_run_is_markdown_with_no_markup_but_its_own(cases in proptest::collection::vec(any_case(), 0..4)) {
        use pulldown_cmark::{Event, Options, Parser, Tag};
        let run = run_of(cases, None, Strictness::default());
        let same = Comparison::of(("a", &run), ("b", &conformant()));
        for page in [markdown::render(&run), compare::markdown(&same)] {
            for event in Parser::new_ext(&page, Options::all()) {
                let fine = match &event {
                    Event::Html(html) | Event::InlineHtml(html) => html.starts_with("<details>") || html.starts_with("</details>"),
                    Event::Start(Tag::Link { .. } | Tag::Image { .. } | Tag::HtmlBlock | Tag::FootnoteDefinition(_))
                        if !matches!(event, Event::Start(Tag::HtmlBlock)) => false,
                    _ => true,
                };
                prop_assert!(fine, "{:?} in {}", event, page);
            }
        }
    }
}
