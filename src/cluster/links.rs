//! The links of a node's bus, as `CLUSTER LINKS` shows them (Redis 7.0).

use super::resp::Reply;

/// One link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// `to` for the one that the node opened, `from` for the one that the other did.
    pub direction: String,
    /// The other node's id.
    pub node: String,
    /// When it was made, in milliseconds of the node's own clock since 1970.
    pub created: i64,
}

/// Parses the reply of `CLUSTER LINKS`. `None` where it is not of the documented form.
pub fn parse_links(reply: &Reply) -> Option<Vec<Link>> {
    let links = reply.array()?.iter();
    links
        .map(|link| {
            let field = |name: &str| {
                let mut pairs = link.array()?.chunks_exact(2);
                pairs.find(|pair| pair[0].text() == Some(name)).map(|pair| &pair[1])
            };
            Some(Link {
                direction: field("direction")?.text()?.to_owned(),
                node: field("node")?.text()?.to_owned(),
                created: field("create-time")?.integer()?,
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bulk(text: &str) -> Reply {
        Reply::Bulk(text.to_owned().into())
    }

    #[test]
    fn a_link_has_a_direction_an_end_and_a_time() {
        let mut fields = vec![bulk("direction"), bulk("to"), bulk("node"), bulk("ab12")];
        let untimed = Reply::Array(vec![Reply::Array(fields.clone())]);
        assert_eq!(parse_links(&untimed), None);
        fields.extend([bulk("create-time"), Reply::Integer(1_700_000_000_000)]);
        let links = parse_links(&Reply::Array(vec![Reply::Array(fields)])).unwrap();
        assert_eq!((links[0].direction.as_str(), links[0].node.as_str()), ("to", "ab12"));
        assert_eq!(links[0].created, 1_700_000_000_000);
        assert_eq!(parse_links(&Reply::Integer(1)), None);
    }
}
