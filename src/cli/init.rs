//! `init`: the description of a deployment that is there.

use crate::exit;
use crate::target::kubernetes::look;
use anyhow::{Context as _, bail};
use clap::Args;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Where to look.
#[derive(Args)]
pub(super) struct InitArguments {
    /// The kubeconfig; the usual one without it.
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// The context; the kubeconfig's current one without it.
    #[arg(long)]
    context: Option<String>,
    /// The namespace; the context's without it.
    #[arg(long, short = 'n')]
    namespace: Option<String>,
    /// Labels of the servers' pods, where there is more than one cluster: app=shop,role=cache.
    #[arg(long, short = 'l', value_name = "LABELS", value_delimiter = ',')]
    selector: Vec<String>,
    /// Write it into this file, which must not be there yet; without it, to standard output.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

pub(super) async fn init(arguments: &InitArguments) -> anyhow::Result<u8> {
    let labels = labels(&arguments.selector)?;
    let seen = look(
        arguments.kubeconfig.as_deref(),
        arguments.context.as_deref(),
        arguments.namespace.as_deref(),
    )
    .await?;
    let text = seen.describe(&labels).map_err(anyhow::Error::msg)?;
    let Some(file) = &arguments.out else {
        anstream::print!("{text}");
        return Ok(exit::CONFORMANT);
    };
    // Somebody has put work into what is there.
    let made = std::fs::File::create_new(file).with_context(|| format!("{} cannot be made", file.display()))?;
    std::io::Write::write_all(&mut &made, text.as_bytes())
        .with_context(|| format!("{} cannot be written", file.display()))?;
    let mut way = String::new();
    if let Some(kubeconfig) = &arguments.kubeconfig {
        way.push_str(&format!(" --kubeconfig {}", kubeconfig.display()));
    }
    if let Some(context) = &arguments.context {
        way.push_str(&format!(" --context {context}"));
    }
    anstream::eprintln!(
        "{0}: look at its comments, then: redis-cluster-conformance run --target kubernetes{way} --target-file {0}",
        file.display()
    );
    Ok(exit::CONFORMANT)
}

fn labels(written: &[String]) -> anyhow::Result<BTreeMap<String, String>> {
    let mut labels = BTreeMap::new();
    for label in written {
        let Some((name, value)) = label.split_once('=').filter(|(name, _)| !name.is_empty()) else {
            bail!("--selector {label}: a label is name=value");
        };
        labels.insert(name.to_owned(), value.trim_start_matches('=').to_owned());
    }
    Ok(labels)
}
