//! Servers that talk nonsense: the run ends, in bounded time and memory, with the right exit code, and shows the bytes.

#![allow(clippy::unwrap_used, reason = "a test: a panic is a failure with a place")]

use rstest::rstest;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Stdio;
use std::time::{Duration, Instant};

/// What a server does once it has been asked something.
#[derive(Clone, Copy, Debug)]
enum Nonsense {
    /// Sends these bytes once, and stays silent.
    Once(&'static [u8]),
    /// Sends these bytes once, and hangs up.
    AndCloses(&'static [u8]),
    /// Sends the first bytes, and then the second for ever.
    Endless(&'static [u8], &'static [u8]),
    /// Answers every command with these bytes.
    Always(&'static [u8]),
    /// Is a server as it should be when asked what it is, and answers all else with these bytes.
    Later(&'static [u8]),
}

/// The next command of a client, in capitals; none when it has gone.
fn command(stream: &mut impl Read) -> Option<String> {
    let mut words = Vec::new();
    for _ in 0..number(stream)? {
        let mut word = vec![0; number(stream)? + 2];
        stream.read_exact(&mut word).ok()?;
        words.push(String::from_utf8_lossy(&word).trim().to_uppercase());
    }
    Some(words.join(" "))
}

/// The number of a line such as `*2`.
fn number(stream: &mut impl Read) -> Option<usize> {
    let mut line = Vec::new();
    while !line.ends_with(b"\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).ok()?;
        line.push(byte[0]);
    }
    std::str::from_utf8(&line[1..]).ok()?.trim().parse().ok()
}

fn bulk(text: &str) -> Vec<u8> {
    format!("${}\r\n{text}\r\n", text.len()).into_bytes()
}

/// Serves one client until it has gone: it may go at any time, and then a write fails.
fn serve(mut stream: TcpStream, nonsense: Nonsense) -> Option<()> {
    loop {
        let command = command(&mut stream)?;
        match nonsense {
            Nonsense::Once(bytes) => {
                stream.write_all(bytes).ok()?;
                // Until the client goes.
                std::io::copy(&mut stream, &mut std::io::sink()).ok()?;
            }
            Nonsense::AndCloses(bytes) => {
                stream.write_all(bytes).ok()?;
                return None;
            }
            Nonsense::Endless(first, more) => {
                stream.write_all(first).ok()?;
                loop {
                    stream.write_all(more).ok()?;
                }
            }
            Nonsense::Always(bytes) => stream.write_all(bytes).ok()?,
            Nonsense::Later(bytes) => {
                let reply = match command.as_str() {
                    "INFO SERVER" => bulk("# Server\r\nredis_version:7.0.15\r\n"),
                    "CONFIG GET CLUSTER-NODE-TIMEOUT" => {
                        b"*2\r\n$20\r\ncluster-node-timeout\r\n$4\r\n1000\r\n".to_vec()
                    }
                    _ => bytes.to_vec(),
                };
                stream.write_all(&reply).ok()?;
            }
        }
    }
}

/// Six servers of one kind on loopback, for as long as the test runs.
fn servers(nonsense: Nonsense) -> String {
    let addresses = (0..6).map(|_| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                std::thread::spawn(move || serve(stream, nonsense));
            }
        });
        address
    });
    addresses.collect::<Vec<_>>().join(",")
}

/// How a run over the servers ended: exit code, standard output, the most memory that it took in MiB.
fn judged(nonsense: Nonsense, folder: &std::path::Path) -> (i32, String, u64) {
    let mut child = std::process::Command::new(assert_cmd::cargo::cargo_bin("redis-cluster-conformance"))
        .args(["run", "SLOT", "REPL", "HASH", "--target", "addresses", "--out", "o"])
        .args(["--addresses", &servers(nonsense), "--timing", "T_reply=1"])
        .env("NO_COLOR", "1")
        .current_dir(folder)
        .stdout(std::fs::File::create(folder.join("stdout")).unwrap())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let (began, mut most) = (Instant::now(), 0);
    let status = loop {
        let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap_or_default();
        let peak = status
            .lines()
            .find_map(|line| line.strip_prefix("VmHWM:")?.split_whitespace().next());
        most = most.max(peak.and_then(|peak| peak.parse().ok()).unwrap_or(0) / 1024);
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if began.elapsed() > Duration::from_secs(120) {
            child.kill().unwrap();
            panic!("the run did not end");
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    let stdout = std::fs::read_to_string(folder.join("stdout")).unwrap();
    (status.code().unwrap(), stdout, most)
}

#[rstest]
#[case::another_protocol(
    Nonsense::Once(b"HTTP/1.1 400 Bad Request\r\n\r\n"),
    3,
    r#""HTTP/1.1 400 Bad Request"#
)]
#[case::bytes_of_any_kind(Nonsense::Once(b"\x00\xff\x1b[31m\x80"), 3, r#""\x00\xff\x1b[31m\x80""#)]
#[case::silence(Nonsense::Once(b""), 3, "no reply to INFO SERVER within 1.0 s")]
#[case::half_a_reply(Nonsense::Once(b"$900\r\nredis_ver"), 3, r#"within 1.0 s; "$900\r\nredis_ver" came"#)]
#[case::half_a_reply_and_gone(Nonsense::AndCloses(b"*2\r\n+a\r\n"), 3, r#"; "*2\r\n+a\r\n" came"#)]
#[case::gone(Nonsense::AndCloses(b""), 3, "connection closed before the reply to INFO SERVER")]
#[case::an_endless_line(Nonsense::Endless(b"+", b"aaaaaaaa"), 3, r#""+aaaaaaaa"#)]
#[case::an_endless_string(Nonsense::Endless(b"$8000000\r\n", &[b'a'; 4096]), 3, r#""$8000000\r\naaaa"#)]
#[case::a_string_beyond_all_bounds(Nonsense::Endless(b"$9000000000\r\n", &[b'a'; 4096]), 3, "a length of 9000000000")]
#[case::an_endless_array(
    Nonsense::Endless(b"*1000000\r\n", b"*2\r\n:1\r\n:2\r\n"),
    3,
    r#""*1000000\r\n*2\r\n:1"#
)]
#[case::endless_nesting(Nonsense::Endless(b"", b"*1\r\n"), 3, "arrays nested deeper than 16")]
#[case::always_the_same(Nonsense::Always(b"+OK\r\n"), 3, "no field in +OK")]
#[case::another_commands_reply(Nonsense::Later(b"+PONG\r\n"), 1, "PONG")]
#[case::two_replies_for_one(Nonsense::Later(b":1\r\n:2\r\n"), 1, ":1")]
#[case::no_text(Nonsense::Later(b"$3\r\n\xff\xfe\xfd\r\n"), 1, r"\xff\xfe\xfd")]
#[case::nodes_that_are_none(Nonsense::Later(b"$12\r\na b c\x1b d e\r\n\r\n"), 1, r"a b c\x1b d e")]
#[case::garbage_later(Nonsense::Later(b"\x02\x03garbage"), 1, r"\x02\x03garbage")]
fn nonsense_is_shown_and_bounded(#[case] nonsense: Nonsense, #[case] code: i32, #[case] shown: &str) {
    let folder = tempfile::tempdir().unwrap();
    let (exit, stdout, most) = judged(nonsense, folder.path());
    assert_eq!(exit, code, "{stdout}");
    // The report breaks lines at spaces.
    let flat = stdout.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(flat.contains(shown), "{shown} is not in {stdout}");
    assert!(stdout.chars().all(|at| at == '\n' || !at.is_control()), "{stdout}");
    assert!(most < 300, "{most} MiB");
}
