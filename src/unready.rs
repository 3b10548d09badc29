//! A server that takes another password than its platform knows, for a while: done once in a run, and judged by several
//! cases. Its readiness must go, and its name must not.

use crate::check::{Look, eventually, ready};
use crate::cluster::node::Member;
use crate::context::{Context, Secret, with_cleanup};
use crate::failover::kept;
use crate::inside::{headless, server_container};
use crate::probe::Probe;
use crate::verdict::{Mismatch, Stop};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long the kubelet and the API may take beside the probe's own arithmetic.
const TOLD: Duration = Duration::from_secs(10);

/// What was seen.
#[derive(Debug)]
pub struct Unready {
    /// The server.
    pub member: Member,
    /// What the server said to the password that it no longer takes.
    pub refused: String,
    /// How long its pod was still called ready.
    pub dropped: Result<Duration, Mismatch>,
    /// Whether the headless Service led to it once it was not ready; none where it never was.
    pub named: Option<Result<(), Mismatch>>,
}

/// What was seen in this run; the first case that asks makes it happen.
///
/// # Errors
/// When it could not be observed at all: the same for every case that asks.
pub async fn observed(cx: &Context) -> Result<Arc<Unready>, Stop> {
    cx.note_observation("a server that takes another password");
    let shared = cx.shared().clone();
    let seen = shared
        .unready
        .get_or_init(|| async { Ok(Arc::new(observe(cx).await?)) });
    Ok(seen.await.clone()?)
}

async fn observe(cx: &Context) -> Result<Unready, Stop> {
    let view = cx.view().await?;
    let node = view.replicas().next().or(view.nodes.first());
    let member = node
        .map(|node| node.member.clone())
        .ok_or_else(|| Mismatch::new("servers", "none"))?;
    let (container, _) = server_container(cx, &member.name).await?;
    let Some(probe) = Probe::of(&container, "readinessProbe") else {
        return Err(Stop::Unsupported(
            "the server's container has no readiness probe, so nothing is to be judged here (K8S-05 judges that)"
                .into(),
        ));
    };
    let right = cx.password()?;
    if cx.shared().target.user().is_some() {
        return Err(Stop::Unsupported(
            "as which user the readiness probe authenticates is not known: the description names one for the suite"
                .into(),
        ));
    }
    let other = Secret::new(format!("another-password-{}", cx.shared().run_id));
    cx.keep_secret([other.clone()]);
    only_password(cx, &member, &right).await?;
    ready(cx, &member, true, cx.timing().arrange()).await?;
    let work = async {
        set(cx, &member, &right, &other).await?;
        let changed = Instant::now();
        cx.note_time(format!("{member} takes another password"));
        let reply = cx
            .connect_raw(&member.address)
            .await?
            .call(&["AUTH", right.expose()])
            .await?;
        let refused = right.redact(&reply.to_string());
        if reply.is_ok() {
            return Err(anyhow::anyhow!("{member} takes the old password after CONFIG SET requirepass").into());
        }
        let dropped = ready(cx, &member, false, probe.notices() + TOLD)
            .await
            .map(|()| changed.elapsed());
        let dropped = kept(dropped)?;
        let named = match &dropped {
            Ok(_) => Some(kept(named(cx, &member).await)?),
            Err(_) => None,
        };
        Ok(Unready {
            member: member.clone(),
            refused,
            dropped,
            named,
        })
    };
    let back = async {
        set_back(cx, &member, &other, &right).await?;
        ready(cx, &member, true, cx.timing().arrange() + probe.notices() + TOLD).await
    };
    with_cleanup(work, back).await
}

/// Refuses to change the password of a server that takes several, as in the middle of a rotation: `CONFIG SET requirepass`
/// takes all of them away, and only one is known, to be given back.
async fn only_password(cx: &Context, member: &Member, right: &Secret) -> Result<(), Stop> {
    let mut connection = cx.connect_raw(&member.address).await?;
    connection.call(&["AUTH", right.expose()]).await?;
    // Before Redis 6 there is no such command, and no second password.
    let user = connection.call(&["ACL", "GETUSER", "default"]).await?;
    let fields = user.array().unwrap_or_default();
    let passwords = fields
        .chunks(2)
        .find(|field| field[0].text() == Some("passwords"))
        .and_then(|field| field.get(1)?.array())
        .map_or(1, <[_]>::len);
    match passwords {
        0 | 1 => Ok(()),
        several => Err(Stop::Unsupported(format!(
            "{member} takes {several} passwords of the user default: to change them would lose those that are not known here"
        ))),
    }
}

/// Changes the password that a server takes.
async fn set(cx: &Context, member: &Member, old: &Secret, new: &Secret) -> Result<(), Stop> {
    let mut connection = cx.connect_raw(&member.address).await?;
    let reply = connection.call(&["AUTH", old.expose()]).await?;
    if !reply.is_ok() {
        return Err(anyhow::anyhow!("{member}: AUTH -> {reply}").into());
    }
    let reply = connection.call(&["CONFIG", "SET", "requirepass", new.expose()]).await?;
    match reply.is_ok() {
        true => Ok(()),
        false => Err(Stop::Unsupported(format!(
            "{member}: CONFIG SET requirepass -> {reply}"
        ))),
    }
}

/// Gives a server its password back. One that was started again meanwhile, or was never changed, has it already.
async fn set_back(cx: &Context, member: &Member, other: &Secret, right: &Secret) -> Result<(), Stop> {
    let what = format!("{member} takes the deployment's password again");
    eventually(cx, &what, cx.timing().arrange(), async || {
        let mut connection = cx.connect_raw(&member.address).await?;
        let reply = connection.call(&["AUTH", right.expose()]).await?;
        if reply.is_ok() {
            return Ok(Look::Reached(()));
        }
        match set(cx, member, other, right).await {
            Ok(()) => Ok(Look::Reached(())),
            Err(Stop::Error(error)) => Ok(Look::NotYet(format!("{error:#}"))),
            Err(stop) => Err(stop),
        }
    })
    .await
}

/// Expects the headless Service to lead to a server that is not ready. The clients' Service is waited for first: once it
/// leads there no more, Kubernetes has taken the change in.
async fn named(cx: &Context, member: &Member) -> Result<(), Stop> {
    let deployment = cx.deployment()?;
    let (host, bound) = (&member.address.host, cx.timing().gossip() + TOLD);
    if let Some((service, _)) = deployment.client_service() {
        let what = format!("Service {service} leads to {} no more", member.name);
        let left = eventually(cx, &what, bound, async || {
            Ok(match deployment.behind(&service).await?.contains(host) {
                true => Look::NotYet("it does".into()),
                false => Look::Reached(()),
            })
        });
        // That is not what is judged: it may lead to pods that are not ready too.
        let _ = kept(left.await)?;
    }
    let service = headless(cx).await?;
    let behind = deployment.behind(&service).await?;
    match behind.contains(host) {
        true => Ok(()),
        false => Err(Mismatch::new(
            format!("Service {service} leads to {member}, which is not ready"),
            format!("it leads to {}", behind.join(", ")),
        )
        .into()),
    }
}
