//! What the running servers and their containers show of the manifest.

use super::objects::{described, each_workload, rules};
use crate::case::{Capability, Case, CaseId, Feature, Impact, Level, Profile, Seed};
use crate::check::no_findings;
use crate::context::{Context, Execution, Pod};
use crate::lint::pod::memory_limit;
use crate::lint::tools::tools;
use crate::manifest::redact::redacted;
use crate::verdict::{Mismatch, Outcome, Stop};
use futures::future::try_join_all;
use std::collections::{BTreeMap, BTreeSet};

pub(super) const RESOURCES: Case = Case {
    id: CaseId("K8S-11"),
    title: "requests and a memory limit are set",
    requirement: "Requests for CPU and memory, and a memory limit, MUST be set.",
    source: "seed lines 151-154 of its listing; Kubernetes documentation, Resource Management for Pods and Containers",
    level: Level::Must,
    profile: Profile::Kubernetes,
    seed: &[],
    impact: Impact::ReadOnly,
    needs: &[Capability::Kubernetes],
    features: &[],
    bound: "-",
    controls: &["manifest:no-memory-limit"],
    method: "Applies the rules of `lint` for this row to the live objects. `CONFIG GET maxmemory` of every server is compared with the limit: \
             that it is neither 0 nor above 75 % of it is only recommended, so what differs is a remark.",
    run: |cx| Box::pin(resources(cx)),
};

pub(super) const IMAGE: Case = Case {
    id: CaseId("K8S-14"),
    title: "the image is pinned, supported, and not pulled at every start",
    requirement: "The image SHOULD be pinned by digest, of a version that is supported, and pulled IfNotPresent.",
    source: "seed lines 130-131 of its listing, and 390; Kubernetes documentation, Images",
    level: Level::Should,
    profile: Profile::Kubernetes,
    seed: &[],
    impact: Impact::ReadOnly,
    needs: &[Capability::Kubernetes],
    features: &[],
    bound: "-",
    controls: &["manifest:image-latest", "manifest:pulled-at-every-start"],
    method: "Applies the rules of `lint` for this row to the live objects. Then `redis_version` of `INFO server` must be 6 or above on every \
             server.",
    run: |cx| Box::pin(image(cx)),
};

pub(super) const USER: Case = Case {
    id: CaseId("K8S-15"),
    title: "the server does not run as root",
    requirement: "The server SHOULD NOT run as root.",
    source: "seed lines 145-146 of its listing; Kubernetes documentation, Pod Security Standards",
    level: Level::Should,
    profile: Profile::Kubernetes,
    seed: &[],
    impact: Impact::ReadOnly,
    needs: &[Capability::Kubernetes],
    features: &[],
    bound: "-",
    controls: &["manifest:as-root"],
    method: "Reads the user of the server's process in /proc of every container: it must not be 0. What the rules of `lint` find for this row \
             is a remark where the user is another; they alone decide where no program can be run in the containers.",
    run: |cx| Box::pin(user(cx)),
};

pub(super) const MOUNTS: Case = Case {
    id: CaseId("K8S-16"),
    title: "no mount hides a file that the workload needs",
    requirement: "Volume mounts MUST NOT hide files that the workload needs.",
    source: "seed lines 175-178 of its listing against 392 (`ADD … /usr/local/etc/` is hidden by the mount)",
    level: Level::Must,
    profile: Profile::Kubernetes,
    seed: &[Seed::A6],
    impact: Impact::ReadOnly,
    needs: &[Capability::Kubernetes],
    features: &[],
    bound: "-",
    controls: &["manifest:file-hidden"],
    method: "Applies the rules of `lint` for this row to the live objects. Where programs can be run in the containers, every file that a \
             ConfigMap mounts must be there, in the pods of its workload, with the ConfigMap's own text: that is what hooks and servers really read.",
    run: |cx| Box::pin(mounts(cx)),
};

pub(super) const ANNOUNCED: Case = Case {
    id: CaseId("K8S-18"),
    title: "every server announces its pod's address",
    requirement: "The pod's own address, status.podIP by the downward API, MUST be passed as cluster-announce-ip.",
    source: "seed lines 141-150 of its listing; Kubernetes documentation, Downward API; redis#15188",
    level: Level::Must,
    profile: Profile::Kubernetes,
    seed: &[Seed::A6],
    impact: Impact::ReadOnly,
    needs: &[Capability::Kubernetes],
    features: &[Feature::Config],
    bound: "-",
    controls: &["manifest:no-announce-ip"],
    method: "Applies the rules of `lint` for this row to the live objects. Then `CONFIG GET cluster-announce-ip` of every server must be its \
             pod's `status.podIP`.",
    run: |cx| Box::pin(announced(cx)),
};

pub(super) const TOOLS: Case = Case {
    id: CaseId("K8S-22"),
    title: "every program that hooks and probes call is in the image",
    requirement: "Every program that the hooks, the probes and the server's command call MUST be in the image.",
    source: "seed line 393, and 15-24 of its script",
    level: Level::Must,
    profile: Profile::Kubernetes,
    seed: &[Seed::A6],
    impact: Impact::ReadOnly,
    needs: &[Capability::Kubernetes, Capability::Exec],
    features: &[],
    bound: "-",
    controls: &["manifest:hook-calls-a-missing-program"],
    method: "Collects from hooks, probes, the command and the scripts in ConfigMaps that they call the names of well-known programs, and the \
             first word of every command; `command -v` must find each in every container of the pods of the same workload. What a script asks for first \
             (`command -v ip && …`) is not needed.",
    run: |cx| Box::pin(tools_present(cx)),
};

async fn resources(cx: &Context) -> Outcome {
    let objects = rules(cx, Level::Must).await?;
    let workloads = each_workload(&objects, &described(cx).await?, |_, workload| memory_limit(workload))?;
    let of_pods = workloads
        .iter()
        .flat_map(|(limit, pods)| pods.iter().map(|pod| (pod.name.as_str(), *limit)));
    let limits: BTreeMap<&str, Option<f64>> = of_pods.collect();
    let said = cx.on_every_node(async |member, connection| {
        let maxmemory = connection
            .setting("maxmemory")
            .await?
            .and_then(|text| text.parse().ok());
        Ok(maxmemory
            .and_then(|bytes| headroom(bytes, *limits.get(member.name.as_str())?))
            .map(|found| format!("{}: {found}", member.name)))
    });
    said.await?
        .into_iter()
        .flatten()
        .for_each(|remark| cx.note(format!("should: {remark}")));
    Ok(())
}

/// What is wrong with a server's maxmemory, given the container's limit.
fn headroom(maxmemory: u64, limit: Option<f64>) -> Option<String> {
    let limit = limit?;
    // Bytes of memory are far below what a float holds exactly.
    let share = 100.0 * maxmemory as f64 / limit;
    match maxmemory {
        0 => Some("maxmemory 0: the data may grow until the kernel kills the server".into()),
        _ if share > 75.0 => Some(format!("maxmemory {maxmemory} is {share:.0} % of the memory limit")),
        _ => None,
    }
}

async fn image(cx: &Context) -> Outcome {
    rules(cx, Level::Should).await?;
    cx.judge_every_node("a version that is supported", async |member, connection| {
        let reply = connection.call(&["INFO", "server"]).await?;
        let text = reply.text().unwrap_or_default();
        let version = text
            .lines()
            .find_map(|line| line.strip_prefix("redis_version:"))
            .unwrap_or("none");
        let old = !is_supported(version.trim());
        Ok(old
            .then(|| format!("{}: redis_version {}", member.name, version.trim()))
            .into_iter()
            .collect())
    })
    .await
}

/// Redis 5 and before are out of support.
fn is_supported(version: &str) -> bool {
    let major = version.split('.').next().and_then(|major| major.parse::<u32>().ok());
    major.is_some_and(|major| major >= 6)
}

/// Runs a command in the server's container of each of the pods.
async fn in_every_pod(cx: &Context, pods: &[Pod], command: &[&str]) -> Result<Vec<(String, Execution)>, Stop> {
    let deployment = cx.deployment()?;
    let runs = pods.iter().map(async |pod| {
        let done = deployment.exec(&pod.name, command, cx.patience()).await?;
        Ok::<_, Stop>((pod.name.clone(), done))
    });
    try_join_all(runs).await
}

/// The effective user of every process that is a server, a line each. A shell is all that it needs.
const USERS: &str = "for p in /proc/[0-9]*; do n=; read -r n < $p/comm; case $n in *-server) \
                     while read -r k r e o; do [ \"$k\" = Uid: ] && echo \"$e\"; done < $p/status;; esac; done 2>/dev/null; true";

async fn user(cx: &Context) -> Outcome {
    let by_rules = rules(cx, Level::Should).await.map(drop);
    if !cx.capabilities().contains(&Capability::Exec) {
        return by_rules;
    }
    let pods = cx.deployment()?.pods().await?;
    let seen = in_every_pod(cx, &pods, &["sh", "-c", USERS]).await?;
    if seen.iter().any(|(_, done)| users(&done.stdout).is_empty()) {
        cx.note("the process of a server was not found in its container: the rules alone decide");
        return by_rules;
    }
    let as_root = seen.iter().filter(|(_, done)| users(&done.stdout).contains(&0));
    let as_root: Vec<String> = as_root
        .map(|(pod, _)| format!("{pod}: the server's process has the user 0"))
        .collect();
    match (as_root.is_empty(), by_rules) {
        (true, Err(Stop::Mismatch(mismatch))) => {
            cx.note(format!(
                "no server runs as root; nothing in the objects keeps it so: {}",
                mismatch.actual
            ));
            Ok(())
        }
        (true, other) => other,
        (false, Err(Stop::Mismatch(Mismatch { expected, actual }))) => Err(Mismatch {
            expected,
            actual: format!("{}\n{actual}", as_root.join("\n")),
        }
        .into()),
        (false, _) => Ok(no_findings("no server that runs as root", &as_root)?),
    }
}

/// The users that the shell told.
fn users(told: &str) -> Vec<u32> {
    told.lines().filter_map(|line| line.trim().parse().ok()).collect()
}

async fn mounts(cx: &Context) -> Outcome {
    let objects = rules(cx, Level::Must).await?;
    if !cx.capabilities().contains(&Capability::Exec) {
        cx.note("what the containers really have was not looked at: no program can be run in them");
        return Ok(());
    }
    let workloads = each_workload(&objects, &described(cx).await?, |_, workload| {
        let files = workload.mounts.files().into_iter();
        let files = files.map(|(path, text)| (path, text.text.to_owned()));
        files.collect::<BTreeMap<String, String>>()
    })?;
    let password = cx.shared().target.password();
    let mut findings = Vec::new();
    let mut compared = 0;
    for (files, pods) in &workloads {
        for (path, text) in files {
            for (pod, done) in in_every_pod(cx, pods, &["cat", path]).await? {
                let there = redacted(&done.stdout, password.as_ref());
                findings.extend(differs(path, text, done.status, &there).map(|found| format!("{pod}: {found}")));
            }
        }
        compared += files.len();
    }
    cx.count("files of ConfigMaps compared in every container", compared, "files");
    Ok(no_findings(
        "every file of a ConfigMap in the containers, as it is there",
        &findings,
    )?)
}

/// In what a file in a container is not the ConfigMap's.
fn differs(path: &str, text: &str, status: i32, there: &str) -> Option<String> {
    if status != 0 {
        return Some(format!("{path} cannot be read (cat ends with {status})"));
    }
    (there != text).then(|| format!("{path} is another text than the ConfigMap's: another mount or the image has it"))
}

async fn announced(cx: &Context) -> Outcome {
    rules(cx, Level::Must).await?;
    cx.judge_every_node(
        "the pod's address as cluster-announce-ip",
        async |member, connection| {
            let value = connection.setting("cluster-announce-ip").await?.unwrap_or_default();
            let fine = value == member.address.host;
            let found = format!(
                "{}: cluster-announce-ip \"{value}\", its pod has {}",
                member.name, member.address.host
            );
            Ok((!fine).then_some(found).into_iter().collect())
        },
    )
    .await
}

/// Names the programs among its arguments that it does not find.
const ASK_FOR: &str = "for p; do command -v \"$p\" >/dev/null 2>&1 || echo \"$p\"; done";

async fn tools_present(cx: &Context) -> Outcome {
    let objects = rules(cx, Level::Must).await?;
    let workloads = each_workload(&objects, &described(cx).await?, |_, workload| tools(workload))?;
    let mut findings = Vec::new();
    for (wanted, pods) in &workloads {
        let mut command = vec!["sh", "-c", ASK_FOR, "sh"];
        command.extend(wanted.keys().map(String::as_str));
        for (pod, done) in in_every_pod(cx, pods, &command).await? {
            if done.status != 0 {
                findings.push(format!("{pod}: sh cannot be run: {}", done.stderr.trim()));
            }
            let absent = done.stdout.lines().map(str::trim).filter(|name| !name.is_empty());
            findings.extend(absent.map(|name| {
                let place = wanted.get(name).map_or("a script", String::as_str);
                format!("{pod}: {name}, which {place} calls, is not in the container")
            }));
        }
    }
    let asked: BTreeSet<&String> = workloads.iter().flat_map(|(wanted, _)| wanted.keys()).collect();
    cx.count("programs asked for in every container", asked.len(), "programs");
    Ok(no_findings(
        "every program that hooks, probes and the command call",
        &findings,
    )?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    const MEBI: u64 = 1024 * 1024;

    #[rstest]
    #[case(300 * MEBI, Some(400.0 * 1_048_576.0), true)]
    #[case(301 * MEBI, Some(400.0 * 1_048_576.0), false)]
    #[case(0, Some(400.0 * 1_048_576.0), false)]
    #[case(0, None, true)]
    fn maxmemory_leaves_room_below_the_limit(#[case] maxmemory: u64, #[case] limit: Option<f64>, #[case] fine: bool) {
        assert_eq!(headroom(maxmemory, limit).is_none(), fine);
    }

    #[rstest]
    #[case("7.0.15", true)]
    #[case("6.2.0", true)]
    #[case("5.0.14", false)]
    #[case("none", false)]
    fn old_versions_are_told(#[case] version: &str, #[case] expected: bool) {
        assert_eq!(is_supported(version), expected);
    }

    #[rstest]
    #[case(0, "text\n", true)]
    #[case(0, "text", false)]
    #[case(1, "", false)]
    fn a_file_that_is_not_the_config_map_s_is_told(#[case] status: i32, #[case] there: &str, #[case] fine: bool) {
        assert_eq!(differs("/opt/a.sh", "text\n", status, there).is_none(), fine);
    }

    #[test]
    fn the_shell_finds_the_user_of_a_process_named_like_a_server() {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("some-server");
        // A link, not a copy: a file that was just written may be "busy" while another test starts a process.
        std::os::unix::fs::symlink("/bin/sleep", &program).unwrap();
        let mut child = std::process::Command::new(&program).arg("30").spawn().unwrap();
        // The kernel lets a new process's parent go on before it gives it its name.
        let comm = format!("/proc/{}/comm", child.id());
        let named = || std::fs::read_to_string(&comm).unwrap();
        let until = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while named() != "some-server\n" && std::time::Instant::now() < until {
            std::thread::yield_now();
        }
        let name = named();
        let done = std::process::Command::new("sh").args(["-c", USERS]).output().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        let own = std::os::unix::fs::MetadataExt::uid(&std::fs::metadata(folder.path()).unwrap());
        let told = String::from_utf8_lossy(&done.stdout);
        assert!(
            users(&told).contains(&own),
            "the process is {name:?}, sh ended with {} and told {told:?}",
            done.status
        );
    }

    #[test]
    fn the_shell_names_the_programs_that_are_not_there() {
        let arguments = ["-c", ASK_FOR, "sh", "sh", "no-such-program", "/bin/cat", "/bin/no-such"];
        let done = std::process::Command::new("sh").args(arguments).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&done.stdout), "no-such-program\n/bin/no-such\n");
    }
}
