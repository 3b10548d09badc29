//! Chapter AUTH: every node asks for the password, all the time, and all for the same one.

use crate::case::{Capability, Case, CaseId, Impact, Level, Profile, Seed};

mod checks;
use checks::*;

/// The cases of this chapter.
pub static CASES: &[Case] = &[
    Case {
        id: CaseId("AUTH-01"),
        title: "every node answers NOAUTH to whoever has not authenticated",
        requirement: "On every node an unauthenticated connection MUST get NOAUTH for every command except AUTH, \
                      HELLO, QUIT and RESET.",
        source: "seed lines 109-111 and 323, seed manifest lines 63-64; Redis documentation, Security",
        level: Level::Must,
        profile: Profile::Core,
        seed: &[Seed::A3],
        impact: Impact::Writes,
        needs: &[],
        features: &[],
        bound: "-",
        controls: &["frozen", "open-command", "open-node"],
        method: "On every node, each on a new connection without AUTH: PING, GET, SET, INFO, CLUSTER INFO, CLUSTER \
                 NODES, CLUSTER SLOTS, CONFIG GET, SUBSCRIBE, ECHO must answer `-NOAUTH`.",
        run: |cx| Box::pin(everything_needs_a_password(cx)),
    },
    Case {
        id: CaseId("AUTH-02"),
        title: "no node accepts a wrong, empty, altered or padded password",
        requirement: "A wrong, empty, case-changed or whitespace-padded password MUST be refused and leave the \
                      connection unauthenticated.",
        source: "Redis command page AUTH; seed line 323",
        level: Level::Must,
        profile: Profile::Core,
        seed: &[Seed::A3],
        impact: Impact::ReadOnly,
        needs: &[],
        features: &[],
        bound: "-",
        controls: &["any-password", "frozen", "open-node", "second-password"],
        method: "On every node, each on a new connection: AUTH with another password, an empty one, the password in \
                 upper and in lower case (where that differs), with a space before or after it, and without its last \
                 byte must answer `-WRONGPASS` (Redis 5: `-ERR invalid password`), and the next `GET` `-NOAUTH`.",
        run: |cx| Box::pin(wrong_password_refused(cx)),
    },
    Case {
        id: CaseId("AUTH-03"),
        title: "the same password is accepted by every node",
        requirement: "The same password MUST be accepted by all nodes, masters and replicas.",
        source: "Redis command page AUTH; seed manifest lines 63-64",
        level: Level::Must,
        profile: Profile::Core,
        seed: &[Seed::A3],
        impact: Impact::ReadOnly,
        needs: &[],
        features: &[],
        bound: "-",
        controls: &["frozen", "open-node", "other-password"],
        method: "On every node: `AUTH <password>` -> `+OK`, then `PING` -> `+PONG`.",
        run: |cx| Box::pin(right_password_accepted(cx)),
    },
    Case {
        id: CaseId("AUTH-06"),
        title: "the password is enforced on every node after a change of roles",
        requirement: "After a failover and the restart of its master, every node MUST still enforce the password as \
                      before.",
        source: "seed lines 109-111; Redis Cluster tutorial, Test the failover",
        level: Level::Must,
        profile: Profile::Core,
        seed: &[Seed::A3, Seed::A5],
        impact: Impact::Disruptive,
        needs: &[Capability::KeepAway],
        features: &[],
        bound: "T_sync",
        controls: &[],
        method: "Makes a replica take over from its stopped master, which then comes back. On every node, the \
                 promoted and the returned one among them, AUTH-01, AUTH-02 and AUTH-03 must hold again, and every \
                 replica's link must be up within T_sync.",
        run: |cx| Box::pin(enforced_after_change_of_role(cx)),
    },
    Case {
        id: CaseId("AUTH-07"),
        title: "masterauth is the password on every node",
        requirement: "`masterauth` MUST be set and equal on all nodes, because any node may become a replica.",
        source: "seed manifest line 63; Redis documentation, Replication",
        level: Level::Must,
        profile: Profile::Core,
        seed: &[Seed::A3, Seed::A2],
        impact: Impact::ReadOnly,
        needs: &[],
        features: &[],
        bound: "-",
        controls: &["frozen", "links-down", "no-masterauth", "other-password"],
        method: "Asks every node for `CONFIG GET masterauth`: the value must be the password. Neither is shown.",
        run: |cx| Box::pin(masterauth_everywhere(cx)),
    },
    Case {
        id: CaseId("AUTH-14"),
        title: "all nodes ask for the same password, without exception",
        requirement: "A subset of nodes MUST NOT have a different password or none.",
        source: "seed lines 27-33 of init_cluster.sh (its password is set through the Service, which reaches one \
                 node)",
        level: Level::Must,
        profile: Profile::Core,
        seed: &[Seed::A3],
        impact: Impact::ReadOnly,
        needs: &[],
        features: &[],
        bound: "-",
        controls: &["any-password", "frozen", "open-node", "other-password"],
        method: "Asks each node at its own address, each question on a new connection: `PING` -> `-NOAUTH`, AUTH \
                 with another password -> refused, AUTH with the password -> `+OK`. All nodes must give the same \
                 three answers.",
        run: |cx| Box::pin(uniform(cx)),
    },
    Case {
        id: CaseId("AUTH-17"),
        title: "protected-mode is off only where a password protects",
        requirement: "`protected-mode no` MUST be combined with a password that is enforced.",
        source: "seed manifest lines 53 and 62-64; Redis documentation, Security, section Protected mode",
        level: Level::Must,
        profile: Profile::Core,
        seed: &[Seed::A3],
        impact: Impact::ReadOnly,
        needs: &[],
        features: &[],
        bound: "-",
        controls: &["frozen", "open-node", "other-password"],
        method: "Asks every node for `CONFIG GET protected-mode`; where the value is `no`, `PING` on a new \
                 connection without AUTH must answer `-NOAUTH`.",
        run: |cx| Box::pin(protected_mode(cx)),
    },
    Case {
        id: CaseId("AUTH-20"),
        title: "a client enters at any node and authenticates wherever it is sent",
        requirement: "A client that follows redirections MUST be able to authenticate with the same password on each \
                      new connection, whichever node it enters at.",
        source: "seed lines 323-325; Redis Cluster specification, section MOVED Redirection",
        level: Level::Must,
        profile: Profile::Core,
        seed: &[Seed::A3],
        impact: Impact::Writes,
        needs: &[],
        features: &[],
        bound: "-",
        controls: &["frozen", "master-down", "open-node", "other-password"],
        method: "Starts a cluster client library at each node in turn, with the password: it must write and read a \
                 key of every shard. With another password, or none, it must get nothing.",
        run: |cx| Box::pin(redirects_need_own_auth(cx)),
    },
];
