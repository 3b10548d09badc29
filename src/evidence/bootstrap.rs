//! What the log of a bootstrap says went wrong, in its own words: the addresses that the hook took, and its last error.

use std::net::IpAddr;

/// The addresses that a hook printed before it used them, by ordinal, where it did: `0:10.244.0.5 1:… 5:fe80::…`. What
/// stands for an address may be anything that the hook's commands printed, over several lines.
pub(super) fn addresses(log: &str) -> Vec<String> {
    // The last such line counts: a hook that runs again prints it again.
    let Some(start) = log
        .match_indices("0:")
        .map(|(at, _)| at)
        .filter(|at| (*at == 0 || log[..*at].ends_with('\n')) && has_marker(&log[*at..], 1))
        .last()
    else {
        return vec![];
    };
    let mut rest = &log[start + "0:".len()..];
    let mut taken = Vec::new();
    loop {
        let next = marker(rest, taken.len() + 1);
        let value = match next {
            Some((at, _)) => &rest[..at],
            // The last value ends with its line, unless what follows is still dig's diagnostics.
            None => {
                let end = rest
                    .match_indices('\n')
                    .map(|(at, _)| at)
                    .find(|at| !rest[at + 1..].starts_with(";;"))
                    .unwrap_or(rest.len());
                &rest[..end]
            }
        };
        taken.push(value.trim().to_owned());
        match next {
            Some((_, after)) => rest = &rest[after..],
            None => return taken,
        }
    }
}

/// Where ` N:` stands in a text, and where it ends.
fn marker(text: &str, ordinal: usize) -> Option<(usize, usize)> {
    let wanted = format!("{ordinal}:");
    text.match_indices(&wanted)
        .map(|(at, _)| at)
        // `fe80::1:2` holds digits before colons too, but no white space before them.
        .find(|at| text[..*at].ends_with([' ', '\n']))
        .map(|at| (at, at + wanted.len()))
}

fn has_marker(text: &str, ordinal: usize) -> bool {
    marker(text, ordinal).is_some()
}

/// What is wrong with what a hook took for the address of `pod`, as "took …"; nothing when it can be the pod's. `real` is
/// the address that Kubernetes gave the pod, where known.
pub(super) fn wrong_address(taken: &str, real: Option<&str>, pod: &str) -> Option<String> {
    let words: Vec<&str> = taken.split_whitespace().collect();
    if words.is_empty() {
        return Some(format!("got no address for {pod} (its name did not resolve)"));
    }
    if let Some(line) = taken.lines().map(str::trim).find(|line| line.starts_with(";;")) {
        return Some(format!("took dig's diagnostic \"{line}\" for the address of {pod}"));
    }
    if words.len() > 1 {
        return Some(format!(
            "took {} words for the address of {pod}: {}",
            words.len(),
            words.join(" ")
        ));
    }
    let real = real.filter(|real| *real != taken);
    match taken.parse::<IpAddr>() {
        Err(_) => Some(format!("took \"{taken}\" for the address of {pod}")),
        Ok(IpAddr::V6(address)) if address.is_unicast_link_local() => {
            Some(format!("took the address {taken} (IPv6 link-local) for {pod}"))
        }
        Ok(address) => match real {
            Some(real) => Some(format!("took the address {taken} for {pod}, whose address is {real}")),
            None if address.is_loopback() => Some(format!("took the address {taken} (loopback) for {pod}")),
            None => None,
        },
    }
}

/// What marks a line as an error, the most telling first.
const TELLING: [&[&str]; 3] = [
    &[
        "could not connect to",
        "invalid address format",
        "failed:",
        "[err]",
        "wrongpass",
        "noauth",
    ],
    &[
        "(error)",
        "err ",
        "error:",
        "is not empty",
        "timed out",
        "not known",
        "refused",
        "no route to host",
        "invalid",
        "unrecognized option",
        "not found",
    ],
    &["error", "fail", "denied", "no answer"],
];

/// The line that says why a bootstrap failed: the last of the most telling kind. Warnings are none of them.
pub(super) fn last_error(log: &str) -> Option<&str> {
    let lines = || {
        log.lines()
            .map(str::trim)
            .filter(|line| !line.is_empty() && !line.starts_with("Warning:") && !line.starts_with(";;"))
    };
    TELLING.into_iter().find_map(|marks| {
        lines().rfind(|line| {
            let lower = line.to_lowercase();
            marks.iter().any(|mark| lower.contains(mark))
        })
    })
}

/// An error about one address, where the log has one; else the last error. The hook of the seed goes on after its first.
pub(super) fn error_about<'a>(log: &'a str, address: &str) -> Option<&'a str> {
    let word = address.split_whitespace().next().unwrap_or_default();
    let at = format!(" {word}:");
    log.lines()
        .map(str::trim)
        .find(|line| {
            let lower = line.to_lowercase();
            line.contains(&at) && TELLING[0].iter().any(|mark| lower.contains(mark))
        })
        .or_else(|| last_error(log))
}

/// The last line of a log that is not empty.
pub(super) fn last_line(log: &str) -> Option<&str> {
    log.lines().map(str::trim).rfind(|line| !line.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case::as_published(
        "0:10.244.0.5 1:10.244.0.6 2:10.244.0.7 3:10.244.0.8 4:10.244.0.9 5:fe80::7c2f:1:2\nxxxx.... \n",
        &["10.244.0.5", "10.244.0.6", "10.244.0.7", "10.244.0.8", "10.244.0.9", "fe80::7c2f:1:2"]
    )]
    #[case::unresolved("0: 1: 2:10.0.0.2\nok......", &["", "", "10.0.0.2"])]
    #[case::diagnostics(
        "0:;; connection timed out; no servers could be reached 1:10.0.0.1 2:;; communications error to 10.96.0.10#53: timed \
         out\n;; no servers could be reached\nxxxx....",
        &[
            ";; connection timed out; no servers could be reached",
            "10.0.0.1",
            ";; communications error to 10.96.0.10#53: timed out\n;; no servers could be reached",
        ]
    )]
    #[case::over_lines("0:10.0.0.1\n10.0.0.2 1:10.0.0.3\n", &["10.0.0.1\n10.0.0.2", "10.0.0.3"])]
    #[case::the_last_run("0:a 1:b\n0:c 1:d\n", &["c", "d"])]
    #[case::none("start save cluster password\nok......", &[])]
    #[case::a_clock("0:10 is late\n", &[])]
    fn reads_the_addresses_of_a_hook(#[case] log: &str, #[case] taken: &[&str]) {
        assert_eq!(addresses(log), taken);
    }

    #[rstest]
    #[case("10.0.0.5", Some("10.0.0.5"), None)]
    #[case("10.0.0.5", None, None)]
    #[case("fd00::5", Some("fd00::5"), None)]
    #[case(
        "172.17.0.1",
        Some("10.0.0.5"),
        Some("took the address 172.17.0.1 for p-5, whose address is 10.0.0.5")
    )]
    #[case("127.0.0.1", None, Some("took the address 127.0.0.1 (loopback) for p-5"))]
    #[case("fe80::5", None, Some("took the address fe80::5 (IPv6 link-local) for p-5"))]
    #[case("", None, Some("got no address for p-5 (its name did not resolve)"))]
    #[case(
        ";; no servers",
        None,
        Some("took dig's diagnostic \";; no servers\" for the address of p-5")
    )]
    #[case(
        "10.0.0.1\n10.0.0.2",
        None,
        Some("took 2 words for the address of p-5: 10.0.0.1 10.0.0.2")
    )]
    #[case("ec2.internal", None, Some("took \"ec2.internal\" for the address of p-5"))]
    fn says_what_is_wrong_with_an_address(#[case] taken: &str, #[case] real: Option<&str>, #[case] says: Option<&str>) {
        assert_eq!(wrong_address(taken, real, "p-5").as_deref(), says);
    }

    #[rstest]
    #[case(
        "Could not connect to Redis at :6379: Name or service not known\nxxxx....\nok......",
        Some("Could not connect to Redis at :6379: Name or service not known")
    )]
    #[case(
        "Warning: Using a password with '-a' may fail.\n[ERR] Node 10.0.0.1:6379 is not empty.\nok......",
        Some("[ERR] Node 10.0.0.1:6379 is not empty.")
    )]
    #[case(
        "30s: waiting, redis-cluster-2: timed out\ninit_cluster.sh FAILED: after 60s: redis-cluster-2: no answer",
        Some("init_cluster.sh FAILED: after 60s: redis-cluster-2: no answer")
    )]
    #[case("redis-cluster init finshed\nok......", None)]
    fn finds_the_line_that_says_why(#[case] log: &str, #[case] line: Option<&str>) {
        assert_eq!(last_error(log), line);
    }

    proptest::proptest! {
        #[test]
        fn any_log_can_be_read(log in "(0:|1:|;;|[ \n:a0é.]){0,40}") {
            let _ = (addresses(&log), last_error(&log), last_line(&log), error_about(&log, &log));
        }
    }
}
