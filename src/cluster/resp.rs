//! The bytes of the protocol (RESP2): requests out, replies in, nothing folded or interpreted.
//!
//! Source: "Redis serialization protocol specification", RESP2. A client library would hide exactly what the suite
//! has to see: the text of an error, a simple string against a bulk string, an empty array against a null one.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use std::fmt;
use tokio_util::codec::{Decoder, Encoder};

/// The longest line (type byte to CR LF) that a server may send: none of the replies the suite asks for comes near it.
const MAX_LINE: usize = 64 * 1024;
/// The longest bulk string that is accepted, in bytes (the protocol's own limit is 512 MiB).
const MAX_BULK: usize = 64 * 1024 * 1024;
/// The deepest nesting of arrays that is accepted.
const MAX_DEPTH: usize = 16;

/// One reply of a server.
#[derive(Clone, PartialEq, Eq)]
pub enum Reply {
    /// `+OK`
    Simple(String),
    /// `-ERR unknown command`, without the dash.
    Error(String),
    /// `:42`
    Integer(i64),
    /// `$3` and three bytes.
    Bulk(Bytes),
    /// `*2` and two replies.
    Array(Vec<Reply>),
    /// `$-1` or `*-1`
    Nil,
}

impl Reply {
    /// The text of a simple or bulk string, where it is UTF-8.
    pub fn text(&self) -> Option<&str> {
        match self {
            Self::Simple(text) => Some(text),
            Self::Bulk(bytes) => std::str::from_utf8(bytes).ok(),
            Self::Error(_) | Self::Integer(_) | Self::Array(_) | Self::Nil => None,
        }
    }

    /// The bytes of a simple or bulk string.
    pub fn bytes(&self) -> Option<&[u8]> {
        match self {
            Self::Simple(text) => Some(text.as_bytes()),
            Self::Bulk(bytes) => Some(bytes),
            Self::Error(_) | Self::Integer(_) | Self::Array(_) | Self::Nil => None,
        }
    }

    /// The number of an integer reply.
    pub fn integer(&self) -> Option<i64> {
        match self {
            Self::Integer(number) => Some(*number),
            Self::Simple(_) | Self::Error(_) | Self::Bulk(_) | Self::Array(_) | Self::Nil => None,
        }
    }

    /// The elements of an array reply.
    pub fn array(&self) -> Option<&[Reply]> {
        match self {
            Self::Array(items) => Some(items),
            Self::Simple(_) | Self::Error(_) | Self::Integer(_) | Self::Bulk(_) | Self::Nil => None,
        }
    }

    /// The text of an error reply.
    pub fn error(&self) -> Option<&str> {
        match self {
            Self::Error(text) => Some(text),
            Self::Simple(_) | Self::Integer(_) | Self::Bulk(_) | Self::Array(_) | Self::Nil => None,
        }
    }

    /// The first word of an error reply: `MOVED`, `NOAUTH`. Error texts differ by version, their prefix does not.
    pub fn error_prefix(&self) -> Option<&str> {
        self.error().map(|text| text.split(' ').next().unwrap_or(text))
    }

    /// Whether this is `+OK`.
    pub fn is_ok(&self) -> bool {
        matches!(self, Self::Simple(text) if text == "OK")
    }
}

impl fmt::Display for Reply {
    /// The reply as a person would write it down: `+OK`, `-MOVED 12182 10.0.0.1:6379`, `:1`, `"text"`, `[…]`, `nil`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Simple(text) => write!(f, "+{text}"),
            Self::Error(text) => write!(f, "-{text}"),
            Self::Integer(number) => write!(f, ":{number}"),
            Self::Bulk(bytes) => {
                let shown = &bytes[..bytes.len().min(200)];
                write!(f, "\"{}\"", shown.escape_ascii())?;
                if bytes.len() > shown.len() {
                    write!(f, "… ({} bytes)", bytes.len())?;
                }
                Ok(())
            }
            Self::Array(items) => {
                f.write_str("[")?;
                for (index, item) in items.iter().enumerate() {
                    if index > 0 {
                        f.write_str(", ")?;
                    }
                    write!(f, "{item}")?;
                }
                f.write_str("]")
            }
            Self::Nil => f.write_str("nil"),
        }
    }
}

impl fmt::Debug for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A reply that is not RESP2.
#[derive(Debug, thiserror::Error)]
pub enum ProtocolError {
    /// The bytes are not a reply; the text says which and why.
    #[error("not a RESP reply: {0}")]
    Nonsense(String),
    /// The stream broke.
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

fn nonsense(what: impl Into<String>) -> ProtocolError {
    ProtocolError::Nonsense(what.into())
}

/// Encodes requests (arrays of bulk strings) and decodes replies.
#[derive(Debug, Default)]
pub struct RespCodec;

impl<A: AsRef<[u8]>> Encoder<&[A]> for RespCodec {
    type Error = ProtocolError;

    fn encode(&mut self, request: &[A], out: &mut BytesMut) -> Result<(), ProtocolError> {
        out.put_slice(format!("*{}\r\n", request.len()).as_bytes());
        for argument in request {
            let argument = argument.as_ref();
            out.put_slice(format!("${}\r\n", argument.len()).as_bytes());
            out.put_slice(argument);
            out.put_slice(b"\r\n");
        }
        Ok(())
    }
}

impl Decoder for RespCodec {
    type Item = Reply;
    type Error = ProtocolError;

    fn decode(&mut self, input: &mut BytesMut) -> Result<Option<Reply>, ProtocolError> {
        match parse(input, 0)? {
            Some((reply, used)) => {
                input.advance(used);
                Ok(Some(reply))
            }
            None => Ok(None),
        }
    }
}

/// Parses one reply from the front of `input`: the reply and its length in bytes, or nothing while it is incomplete.
fn parse(input: &[u8], depth: usize) -> Result<Option<(Reply, usize)>, ProtocolError> {
    if depth > MAX_DEPTH {
        return Err(nonsense(format!("arrays nested deeper than {MAX_DEPTH}")));
    }
    let Some(&kind) = input.first() else {
        return Ok(None);
    };
    if !b"+-:$*".contains(&kind) {
        let shown = &input[..input.len().min(40)];
        return Err(nonsense(format!("starts with \"{}\"", shown.escape_ascii())));
    }
    let Some(end) = input.windows(2).position(|pair| pair == b"\r\n") else {
        if input.len() > MAX_LINE {
            return Err(nonsense(format!("a line longer than {MAX_LINE} bytes")));
        }
        return Ok(None);
    };
    let line = &input[1..end];
    let used = end + 2;
    let text = || String::from_utf8_lossy(line).into_owned();
    match kind {
        b'+' => Ok(Some((Reply::Simple(text()), used))),
        b'-' => Ok(Some((Reply::Error(text()), used))),
        b':' => Ok(Some((Reply::Integer(number(line)?), used))),
        b'$' => match length(line, MAX_BULK)? {
            None => Ok(Some((Reply::Nil, used))),
            Some(length) => {
                let Some(body) = input.get(used..used + length + 2) else {
                    return Ok(None);
                };
                if &body[length..] != b"\r\n" {
                    return Err(nonsense(format!("a bulk string of {length} bytes without its CR LF")));
                }
                Ok(Some((
                    Reply::Bulk(Bytes::copy_from_slice(&body[..length])),
                    used + length + 2,
                )))
            }
        },
        _ => match length(line, MAX_BULK)? {
            None => Ok(Some((Reply::Nil, used))),
            Some(count) => {
                let mut at = used;
                let mut items = Vec::with_capacity(count.min(1024));
                for _ in 0..count {
                    match parse(&input[at..], depth + 1)? {
                        Some((item, used)) => {
                            items.push(item);
                            at += used;
                        }
                        None => return Ok(None),
                    }
                }
                Ok(Some((Reply::Array(items), at)))
            }
        },
    }
}

fn number(line: &[u8]) -> Result<i64, ProtocolError> {
    std::str::from_utf8(line)
        .ok()
        .and_then(|text| text.parse().ok())
        .ok_or_else(|| nonsense(format!("\"{}\" where a number belongs", line.escape_ascii())))
}

fn length(line: &[u8], limit: usize) -> Result<Option<usize>, ProtocolError> {
    match number(line)? {
        -1 => Ok(None),
        length => match usize::try_from(length) {
            Ok(length) if length <= limit => Ok(Some(length)),
            Ok(_) | Err(_) => Err(nonsense(format!("a length of {length}"))),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rstest::rstest;

    fn decode(bytes: &[u8]) -> Result<Option<Reply>, ProtocolError> {
        RespCodec.decode(&mut BytesMut::from(bytes))
    }

    #[rstest]
    #[case(b"+OK\r\n", Reply::Simple("OK".into()))]
    #[case(b"-NOAUTH Authentication required.\r\n", Reply::Error("NOAUTH Authentication required.".into()))]
    #[case(b":-7\r\n", Reply::Integer(-7))]
    #[case(b"$0\r\n\r\n", Reply::Bulk(Bytes::new()))]
    #[case(b"$4\r\na\r\nb\r\n", Reply::Bulk(Bytes::from_static(b"a\r\nb")))]
    #[case(b"$-1\r\n", Reply::Nil)]
    #[case(b"*-1\r\n", Reply::Nil)]
    #[case(b"*0\r\n", Reply::Array(vec![]))]
    #[case(b"*2\r\n:1\r\n*1\r\n+a\r\n", Reply::Array(vec![Reply::Integer(1), Reply::Array(vec![Reply::Simple("a".into())])]))]
    fn decodes(#[case] bytes: &[u8], #[case] reply: Reply) {
        assert_eq!(decode(bytes).unwrap(), Some(reply));
        for cut in 0..bytes.len() {
            assert_eq!(decode(&bytes[..cut]).unwrap(), None, "cut at {cut}");
        }
    }

    #[rstest]
    #[case(b"HTTP/1.1 400 Bad Request\r\n")]
    #[case(b":seven\r\n")]
    #[case(b"$3\r\nabcd\r\n")]
    #[case(b"$-2\r\n")]
    #[case(b"*99999999999\r\n")]
    fn refuses_nonsense(#[case] bytes: &[u8]) {
        assert!(matches!(decode(bytes), Err(ProtocolError::Nonsense(_))));
    }

    #[test]
    fn refuses_endless_lines_and_deep_nesting() {
        let endless = [b"+".as_slice(), &vec![b'a'; MAX_LINE + 1]].concat();
        assert!(decode(&endless).is_err());
        assert!(decode(&b"*1\r\n".repeat(MAX_DEPTH + 2)).is_err());
    }

    fn any_reply() -> impl Strategy<Value = Reply> {
        let leaf = prop_oneof![
            "[^\r\n]{0,20}".prop_map(Reply::Simple),
            "[^\r\n]{0,20}".prop_map(Reply::Error),
            any::<i64>().prop_map(Reply::Integer),
            proptest::collection::vec(any::<u8>(), 0..40).prop_map(|bytes| Reply::Bulk(bytes.into())),
            Just(Reply::Nil),
        ];
        leaf.prop_recursive(3, 20, 5, |inner| {
            proptest::collection::vec(inner, 0..5).prop_map(Reply::Array)
        })
    }

    fn encode(reply: &Reply, out: &mut Vec<u8>) {
        match reply {
            Reply::Simple(text) => out.extend(format!("+{text}\r\n").into_bytes()),
            Reply::Error(text) => out.extend(format!("-{text}\r\n").into_bytes()),
            Reply::Integer(number) => out.extend(format!(":{number}\r\n").into_bytes()),
            Reply::Bulk(bytes) => {
                out.extend(format!("${}\r\n", bytes.len()).into_bytes());
                out.extend_from_slice(bytes);
                out.extend(b"\r\n");
            }
            Reply::Array(items) => {
                out.extend(format!("*{}\r\n", items.len()).into_bytes());
                for item in items {
                    encode(item, out);
                }
            }
            Reply::Nil => out.extend(b"$-1\r\n"),
        }
    }

    proptest! {
        #[test]
        fn every_reply_survives(reply in any_reply(), rest in proptest::collection::vec(any::<u8>(), 0..10)) {
            let mut bytes = Vec::new();
            encode(&reply, &mut bytes);
            let length = bytes.len();
            bytes.extend(&rest);
            let parsed = parse(&bytes, 0).unwrap();
            prop_assert_eq!(parsed, Some((reply, length)));
        }

        #[test]
        fn never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode(&bytes);
        }
    }
}
