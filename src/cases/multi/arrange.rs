//! What the cases of this chapter have in common: masters with slots for keys, and commands played to a server with the
//! replies that belong to them.

use crate::check;
use crate::cluster::connection::{Connection, LinkError};
use crate::cluster::node::{Endpoint, Member, NodeView};
use crate::cluster::redirect::Redirect;
use crate::cluster::view::ClusterView;
use crate::context::Context;
use crate::verdict::{Mismatch, Outcome, Stop};
use futures::future::join_all;

/// A master, with slots for the keys of a case.
pub(super) struct Master<'v> {
    /// Its own view.
    pub(super) node: &'v NodeView,
    /// A slot of its own.
    pub(super) slot: u16,
    /// Another slot of its own.
    pub(super) other: u16,
    /// Another master; itself in a deployment of one shard.
    pub(super) next: &'v NodeView,
    /// A slot of that one.
    pub(super) foreign: u16,
}

impl Master<'_> {
    /// The server.
    pub(super) fn member(&self) -> &Member {
        &self.node.member
    }

    /// The servers of other shards.
    pub(super) fn strangers<'a>(&'a self, view: &'a ClusterView) -> impl Iterator<Item = &'a NodeView> {
        let id = self.node.myself().map(|line| line.id.as_str());
        view.nodes.iter().filter(move |node| {
            let master = node.myself().and_then(|line| line.master.as_deref());
            node.member != self.node.member && (master.is_none() || master != id)
        })
    }
}

/// Every master that the deployment is meant to have.
pub(super) fn masters<'v>(cx: &Context, view: &'v ClusterView) -> Result<Vec<Master<'v>>, Mismatch> {
    let owners: Vec<(&NodeView, Vec<u16>)> = view
        .nodes
        .iter()
        .map(|node| (node, node.own_slots()))
        .filter(|(_, slots)| slots.len() > 1)
        .collect();
    let wanted = cx.shape().masters;
    check::expect(
        owners.len() == wanted,
        format!("{wanted} masters with two slots or more"),
        owners.len().to_string(),
    )?;
    let after = owners.iter().cycle().skip(1);
    let masters = owners.iter().zip(after).map(|((node, slots), (next, theirs))| Master {
        node,
        slot: slots[slots.len() / 2],
        other: slots[slots.len() / 2 - 1],
        next,
        foreign: theirs[theirs.len() / 2],
    });
    Ok(masters.collect())
}

/// Asks every master one question at once, over an authenticated connection each, and expects no findings.
pub(super) async fn judge_masters<F>(cx: &Context, masters: &[Master<'_>], expected: &str, question: F) -> Outcome
where
    F: AsyncFn(&Master<'_>, &mut Connection) -> Result<Vec<String>, Stop>,
{
    let answers = join_all(masters.iter().map(|master| async {
        let mut connection = cx.connect(&master.member().address).await?;
        question(master, &mut connection).await
    }))
    .await;
    let mut findings = Vec::new();
    for answer in answers {
        findings.extend(answer?);
    }
    Ok(check::no_findings(expected, &findings)?)
}

/// Keys of a case in every master's slots: what its cleanup deletes.
pub(super) fn all_keys(masters: &[Master<'_>], keys: impl Fn(&Master<'_>) -> Vec<String>) -> Vec<String> {
    masters.iter().flat_map(keys).collect()
}

/// A command, with `@1`, `@2`, … in place of arguments that are given apart, and the reply that belongs to it as a person
/// writes it down; `*` stands for any text.
pub(super) type Step<'a> = (&'a str, &'a str);

/// Sends the commands one after another over one connection; a finding is a reply that does not belong to its command.
pub(super) async fn play(
    member: &Member,
    connection: &mut Connection,
    arguments: &[&str],
    steps: &[Step<'_>],
) -> Result<Vec<String>, LinkError> {
    let mut findings = Vec::new();
    for (template, expected) in steps {
        let reply = connection.call(&filled(template, arguments)).await?;
        let right = fits(expected, &reply.to_string());
        let command = format!("{} (expected {expected})", filled(template, arguments).join(" "));
        findings.extend(check::unless(right, member, command.escape_debug(), &reply));
    }
    Ok(findings)
}

/// Sends the commands one after another over one connection; a finding is a reply that is not exactly `-MOVED` of the slot to
/// its owner.
pub(super) async fn redirected(
    member: &Member,
    connection: &mut Connection,
    arguments: &[&str],
    templates: &[&str],
    (slot, owner): (u16, &Endpoint),
) -> Result<Vec<String>, LinkError> {
    let mut findings = Vec::new();
    for template in templates {
        let reply = connection.call(&filled(template, arguments)).await?;
        let right = Redirect::is_moved(&reply, slot, owner);
        let command = format!(
            "{} (expected -MOVED {slot} {owner})",
            filled(template, arguments).join(" ")
        );
        findings.extend(check::unless(right, member, command.escape_debug(), &reply));
    }
    Ok(findings)
}

/// The words of a command.
pub(super) fn filled<'a>(template: &'a str, arguments: &[&'a str]) -> Vec<&'a str> {
    let argument = |word: &str| {
        let number: usize = word.strip_prefix('@')?.parse().ok()?;
        arguments.get(number.checked_sub(1)?).copied()
    };
    template.split(' ').map(|word| argument(word).unwrap_or(word)).collect()
}

/// Whether a reply is what a pattern says, where `*` stands for any text.
fn fits(pattern: &str, reply: &str) -> bool {
    let mut pieces = pattern.split('*');
    let Some(mut rest) = pieces.next().and_then(|first| reply.strip_prefix(first)) else {
        return false;
    };
    let mut pieces = pieces.peekable();
    if pieces.peek().is_none() {
        return rest.is_empty();
    }
    while let Some(piece) = pieces.next() {
        if pieces.peek().is_none() {
            return rest.ends_with(piece);
        }
        match rest.find(piece) {
            Some(at) => rest = &rest[at + piece.len()..],
            None => return false,
        }
    }
    true
}

/// The commands of those named that a server has, by `COMMAND INFO`.
pub(super) async fn known<'a>(connection: &mut Connection, names: &[&'a str]) -> Result<Vec<&'a str>, LinkError> {
    let lower: Vec<String> = names.iter().map(|name| name.to_lowercase()).collect();
    let question: Vec<&str> = ["COMMAND", "INFO"]
        .into_iter()
        .chain(lower.iter().map(String::as_str))
        .collect();
    let reply = connection.ask(&question).await?;
    let entries = reply.array().filter(|entries| entries.len() == names.len());
    let entries = entries.ok_or_else(|| connection.nonsense("COMMAND INFO", reply.to_string()))?;
    // A server before 7.0 answers nil for a command that it does not have, some others an empty array.
    let has = |entry: &crate::cluster::resp::Reply| entry.array().is_some_and(|fields| !fields.is_empty());
    let found = names.iter().zip(entries).filter(|(_, entry)| has(entry));
    Ok(found.map(|(name, _)| *name).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case("+OK", "+OK", true)]
    #[case("+OK", "+OKAY", false)]
    #[case("-MOVED 7 *", "-MOVED 7 10.0.0.1:6379", true)]
    #[case("-MOVED 7 *", "-MOVED 70 10.0.0.1:6379", false)]
    #[case("-*same slot*", "-ERR keys that do not hash to the same slot script: 1", true)]
    #[case("-*same slot*", "+same slot", false)]
    #[case("-ERR*MULTI", "-ERR EXEC without MULTI", true)]
    #[case("-ERR*MULTI", "-ERR EXEC without MULTI at all", false)]
    fn a_star_stands_for_any_text(#[case] pattern: &str, #[case] reply: &str, #[case] right: bool) {
        assert_eq!(fits(pattern, reply), right);
    }

    #[test]
    fn arguments_are_filled_in() {
        assert_eq!(filled("SET @1 @12 @0", &["a b"]), ["SET", "a b", "@12", "@0"]);
    }
}
