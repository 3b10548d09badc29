//! The page in a real browser, headless: wide, narrow, dark and on paper. Ignored where there is none: `scripts/setup --for report`
//! installs Debian's Chromium.

#![allow(clippy::unwrap_used, reason = "a panic in a test is a failed test with a place")]

use libtest_mimic::{Arguments, Failed, Trial};
use redis_cluster_conformance::report::{html, json};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// The runs whose pages are looked at, of the golden files.
const RUNS: [&str; 4] = ["every-verdict", "aborted", "empty", "conformant"];

/// Reports the size of the page, what stands out of it, and whether its own script ran, as the document's title. It is put into
/// a copy of the page, whose policy would not let it run.
const PROBE: &str = r#"<script>
addEventListener("load", () => {
  const root = document.documentElement;
  const wide = root.clientWidth;
  document.querySelectorAll("details").forEach((folded) => { folded.open = true; });
  const within = (element) => element.closest(".scroll, .skip, .strip, .axis, .bar, svg");
  const out = [...document.body.querySelectorAll("*")].filter((element) =>
    !within(element) && element.getBoundingClientRect().right > wide + 1);
  const filter = document.getElementById("filter");
  const quiet = getComputedStyle(document.querySelector(".kind"));
  document.title = JSON.stringify({
    wide, scrolls: root.scrollWidth, out: out.slice(0, 3).map((element) => element.outerHTML.slice(0, 120)),
    filter: filter ? !filter.hidden : null, background: getComputedStyle(document.body).backgroundColor, colour: quiet.color,
  });
});
</script></body>"#;

fn chromium() -> Option<PathBuf> {
    ["chromium", "chromium-browser", "google-chrome"]
        .into_iter()
        .find_map(|name| which::which(name).ok())
}

/// Starts the browser on a page, with a profile of its own that goes with it.
fn browse(browser: &Path, page: &Path, arguments: &[&str]) -> Result<Output, Failed> {
    let profile = tempfile::tempdir()?;
    let output = Command::new("timeout")
        .arg("120")
        .arg(browser)
        .args([
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--hide-scrollbars",
            "--enable-logging=stderr",
        ])
        .arg("--virtual-time-budget=2000")
        .arg(format!("--user-data-dir={}", profile.path().display()))
        .args(arguments)
        .arg(format!("file://{}", page.display()))
        .output()?;
    if output.status.success() {
        Ok(output)
    } else {
        Err(format!("{}: {}", output.status, String::from_utf8_lossy(&output.stderr)).into())
    }
}

/// The page of a golden run in a folder; with the probe, if asked for.
fn page(folder: &Path, run: &str, probe: bool) -> Result<PathBuf, Failed> {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let mut text = html::render(&json::read(&golden.join(format!("{run}.json")))?)?;
    if probe {
        // The filter's script must run under the policy; that is looked at without the probe.
        let policy = text.find("script-src '").ok_or("the page has no policy")?;
        let end = policy + text[policy..].find(';').ok_or("the policy has no end")?;
        text.replace_range(policy..end, "script-src 'unsafe-inline'");
        text = text.replacen("</body>", PROBE, 1);
    }
    let file = folder.join("report.html");
    std::fs::write(&file, text)?;
    Ok(file)
}

/// What the browser complains about: errors of the page, refusals by its policy.
fn complaints(output: &Output) -> Vec<String> {
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    let of_page = text.lines().filter(|line| line.contains("CONSOLE"));
    of_page.map(str::to_owned).collect()
}

/// The page fits into a window, says nothing on the console, and has the colours asked for.
fn fits(browser: &Path, run: &str, wide: u32, dark: bool) -> Result<(), Failed> {
    let folder = tempfile::tempdir()?;
    page(folder.path(), run, true)?;
    let window = format!("--window-size={wide},900");
    let scheme = format!("--blink-settings=preferredColorScheme={}", if dark { 0 } else { 1 });
    // A window is never as narrow as a phone: the page stands in a frame of its width.
    let frame = folder.path().join("frame.html");
    std::fs::write(
        &frame,
        format!(
            "<iframe src=report.html width={wide} height=900 style=border:0></iframe><script>
            addEventListener('load', () => {{ setTimeout(() => {{
              document.body.dataset.seen = document.querySelector('iframe').contentDocument.title; }}, 200); }});</script>"
        ),
    )?;
    let output = browse(
        browser,
        &frame,
        &["--dump-dom", "--allow-file-access-from-files", &window, &scheme],
    )?;
    let complaints = complaints(&output);
    if !complaints.is_empty() {
        return Err(complaints.join("\n").into());
    }
    let dom = String::from_utf8_lossy(&output.stdout).into_owned();
    let seen = dom.split("data-seen=\"").nth(1).and_then(|rest| rest.split('"').next());
    let seen = seen
        .ok_or_else(|| format!("the probe said nothing: {dom}"))?
        .replace("&quot;", "\"")
        .replace("&amp;", "&");
    let seen: serde_json::Value = serde_json::from_str(&seen).map_err(|error| format!("{error}: {seen}"))?;
    let dark_seen = seen["background"].as_str() == Some("rgb(18, 21, 24)");
    let well = seen["wide"] == wide
        && seen["scrolls"] == wide
        && seen["out"].as_array().is_some_and(Vec::is_empty)
        && seen["filter"] != false
        && dark_seen == dark;
    if well { Ok(()) } else { Err(seen.to_string().into()) }
}

/// The page as it is, under its own policy: its script runs, and nothing is refused.
fn runs_under_its_policy(browser: &Path) -> Result<(), Failed> {
    let folder = tempfile::tempdir()?;
    let output = browse(browser, &page(folder.path(), "every-verdict", false)?, &["--dump-dom"])?;
    let dom = String::from_utf8_lossy(&output.stdout).into_owned();
    let complaints = complaints(&output);
    if !complaints.is_empty() {
        return Err(complaints.join("\n").into());
    }
    if dom.contains("11 of 11 cases") {
        Ok(())
    } else {
        Err("the filter does not say how many cases it shows".into())
    }
}

/// The page on paper: a PDF of some pages.
fn prints(browser: &Path) -> Result<(), Failed> {
    let folder = tempfile::tempdir()?;
    let pdf = folder.path().join("report.pdf");
    let to = format!("--print-to-pdf={}", pdf.display());
    browse(
        browser,
        &page(folder.path(), "every-verdict", false)?,
        &["--no-pdf-header-footer", &to],
    )?;
    let bytes = std::fs::read(&pdf)?;
    let pages = bytes.windows(11).filter(|part| part == b"/Type /Page").count();
    if bytes.starts_with(b"%PDF-") && (2..20).contains(&pages) {
        Ok(())
    } else {
        Err(format!("{} bytes, {pages} pages", bytes.len()).into())
    }
}

fn main() {
    let arguments = Arguments::from_args();
    let browser = chromium();
    let missing = browser.is_none();
    if missing {
        eprintln!("no chromium here, so these are ignored: scripts/setup --for report installs it");
    }
    let browser = browser.unwrap_or_default();
    let mut trials = Vec::new();
    let mut add = |name: String, test: Box<dyn FnOnce() -> Result<(), Failed> + Send>| {
        trials.push(Trial::test(name, test).with_ignored_flag(missing));
    };
    for run in RUNS {
        for (wide, dark) in [(1280, false), (360, false), (1280, true)] {
            let browser = browser.clone();
            let name = format!("{run}_fits_{wide}_{}", if dark { "dark" } else { "light" });
            add(name, Box::new(move || fits(&browser, run, wide, dark)));
        }
    }
    let of = browser.clone();
    add(
        "its_script_runs_under_its_policy".into(),
        Box::new(move || runs_under_its_policy(&of)),
    );
    add("it_prints".into(), Box::new(move || prints(&browser)));
    libtest_mimic::run(&arguments, trials).exit();
}
