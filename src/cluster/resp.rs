//! The bytes of the protocol (RESP2 and RESP3): requests out, replies in, nothing interpreted.
//!
//! Source: "Redis serialization protocol specification". A client library would hide exactly what the suite has to see:
//! the text of an error, a simple string against a bulk string.
//!
//! The types that the third version adds are read as what a server sends in their place by the second: a map as an array
//! of its keys and values in turn, a set and a push as arrays, a boolean as 1 or 0, a double, a big number and a verbatim
//! string (without its format) as bulk strings, a blob error as an error. An attribute is passed over. Streamed strings and
//! aggregates, which no server sends, are refused.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use std::fmt;
use tokio_util::codec::{Decoder, Encoder};

/// The longest line (type byte to CR LF) that a server may send: none of the replies the suite asks for comes near it.
const MAX_LINE: usize = 64 * 1024;
/// The longest reply that is accepted, in bytes: twenty times what the longest that the suite asks for has. What a server
/// sends beyond it is never kept, so that one which never ends a reply cannot fill the memory.
const MAX_REPLY: usize = 8 * 1024 * 1024;
/// The most elements of a reply, over all its arrays.
const MAX_ITEMS: usize = 1024 * 1024;
/// The deepest nesting of arrays that is accepted.
const MAX_DEPTH: usize = 16;
/// How many bytes of a reply that is none are shown.
const SHOWN: usize = 80;

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

    /// Whether it is a message of a subscription, which nobody asked for at that moment.
    pub fn is_message(&self) -> bool {
        let kind = self.array().and_then(|items| items.first()?.text());
        matches!(kind, Some("message" | "pmessage" | "smessage"))
    }

    /// Its bytes by the second version of the protocol, for whatever speaks as a server. That loses nothing to whoever asked by
    /// the third: this type reads those of both as the same. Errors of several lines, which the second cannot say, are of the third.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Simple(text) => out.extend(format!("+{text}\r\n").bytes()),
            Self::Error(text) if text.contains(['\r', '\n']) => {
                out.extend(format!("!{}\r\n{text}\r\n", text.len()).bytes());
            }
            Self::Error(text) => out.extend(format!("-{text}\r\n").bytes()),
            Self::Integer(number) => out.extend(format!(":{number}\r\n").bytes()),
            Self::Nil => out.extend(b"$-1\r\n"),
            Self::Bulk(bytes) => {
                out.extend(format!("${}\r\n", bytes.len()).bytes());
                out.extend(bytes);
                out.extend(b"\r\n");
            }
            Self::Array(items) => {
                out.extend(format!("*{}\r\n", items.len()).bytes());
                items.iter().for_each(|item| item.encode(out));
            }
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

/// A reply that is not RESP.
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

/// Encodes requests (arrays of bulk strings) and decodes replies. What of a reply has come is taken apart at once and
/// never again: a long reply costs no more than its length.
#[derive(Debug)]
pub struct RespCodec {
    /// The arrays that have begun and not ended, outermost first.
    open: Vec<Open>,
    /// The bytes of the present reply that were taken from the input.
    taken: usize,
    /// How many elements it has.
    items: usize,
    /// Its first bytes, for messages.
    beginning: Vec<u8>,
    /// The longest reply that is accepted.
    longest: usize,
}

/// An array of which not all elements have come.
#[derive(Debug)]
struct Open {
    missing: usize,
    items: Vec<Reply>,
    /// It is an attribute: nobody here asks for what it says of the reply after it.
    passed_over: bool,
}

impl Default for RespCodec {
    fn default() -> Self {
        Self {
            open: Vec::new(),
            taken: 0,
            items: 0,
            beginning: Vec::new(),
            longest: MAX_REPLY,
        }
    }
}

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
        match self.next_reply(input) {
            Err(ProtocolError::Nonsense(reason)) => {
                let shown = self.so_far(input).unwrap_or_default();
                Err(nonsense(format!("{reason}, in {shown}")))
            }
            other => other,
        }
    }

    /// The end of the stream within a reply is the stream's end, and no other error.
    fn decode_eof(&mut self, input: &mut BytesMut) -> Result<Option<Reply>, ProtocolError> {
        self.decode(input)
    }
}

impl RespCodec {
    /// Accepts replies of up to `bytes`.
    pub fn accept_up_to(&mut self, bytes: usize) {
        self.longest = bytes;
    }

    /// What has come of a reply that has not ended, as text: its first bytes, escaped, and how many there are. `None`
    /// where nothing has come. `rest` is what has not been decoded.
    pub fn so_far(&self, rest: &[u8]) -> Option<String> {
        let count = self.taken + rest.len();
        let missing = SHOWN.saturating_sub(self.beginning.len());
        let shown = [&self.beginning, &rest[..rest.len().min(missing)]].concat();
        let more = if count > shown.len() {
            format!("… ({count} bytes)")
        } else {
            String::new()
        };
        (count > 0).then(|| format!("\"{}\"{more}", shown.escape_ascii()))
    }

    fn next_reply(&mut self, input: &mut BytesMut) -> Result<Option<Reply>, ProtocolError> {
        loop {
            let piece = piece(input, self.longest)?;
            if self.taken + input.len() > self.longest && piece.is_none() {
                return Err(nonsense(format!("a reply longer than {} bytes", self.longest)));
            }
            let Some((piece, used)) = piece else {
                return Ok(None);
            };
            let missing = SHOWN.saturating_sub(self.beginning.len()).min(used);
            self.beginning.extend_from_slice(&input[..missing]);
            self.taken += used;
            self.items += 1;
            input.advance(used);
            if self.taken > self.longest || self.items > MAX_ITEMS {
                let (bytes, items) = (self.longest, MAX_ITEMS);
                return Err(nonsense(format!(
                    "a reply of more than {bytes} bytes or {items} elements"
                )));
            }
            let whole = match piece {
                Piece::Whole(reply) => reply,
                Piece::Array(0) => Reply::Array(Vec::new()),
                Piece::Attribute(0) => continue,
                Piece::Array(_) | Piece::Attribute(_) if self.open.len() >= MAX_DEPTH => {
                    return Err(nonsense(format!("arrays nested deeper than {MAX_DEPTH}")));
                }
                Piece::Array(missing) | Piece::Attribute(missing) => {
                    self.open.push(Open {
                        missing,
                        items: Vec::with_capacity(missing.min(64)),
                        passed_over: matches!(piece, Piece::Attribute(_)),
                    });
                    continue;
                }
            };
            if let Some(reply) = self.close(whole) {
                (self.taken, self.items) = (0, 0);
                self.beginning.clear();
                return Ok(Some(reply));
            }
        }
    }

    /// Puts a reply into the array that it belongs to, and that one, where it is now complete, into its own: what
    /// belongs to none is the whole reply.
    fn close(&mut self, mut reply: Reply) -> Option<Reply> {
        while let Some(mut open) = self.open.pop() {
            open.items.push(reply);
            open.missing -= 1;
            if open.missing > 0 {
                self.open.push(open);
                return None;
            }
            if open.passed_over {
                return None;
            }
            reply = Reply::Array(open.items);
        }
        Some(reply)
    }
}

/// What the front of the input holds.
enum Piece {
    /// A reply that is no array.
    Whole(Reply),
    /// The beginning of an array with as many elements.
    Array(usize),
    /// The beginning of an attribute with as many keys and values.
    Attribute(usize),
}

/// The piece at the front of `input` and its length in bytes, or nothing while it is incomplete.
fn piece(input: &[u8], longest: usize) -> Result<Option<(Piece, usize)>, ProtocolError> {
    let Some(&kind) = input.first() else {
        return Ok(None);
    };
    if !b"+-:$*_#,(!=%~>|".contains(&kind) {
        let kind = [kind];
        return Err(nonsense(format!(
            "\"{}\" where the type of a reply belongs",
            kind.escape_ascii()
        )));
    }
    let front = &input[..input.len().min(MAX_LINE + 2)];
    let Some(end) = front.windows(2).position(|pair| pair == b"\r\n") else {
        if input.len() > MAX_LINE {
            return Err(nonsense(format!("a line longer than {MAX_LINE} bytes")));
        }
        return Ok(None);
    };
    let line = &input[1..end];
    let used = end + 2;
    let text = || String::from_utf8_lossy(line).into_owned();
    let whole = |reply| Ok(Some((Piece::Whole(reply), used)));
    match kind {
        b'+' => whole(Reply::Simple(text())),
        b'-' => whole(Reply::Error(text())),
        b':' => whole(Reply::Integer(number(line)?)),
        b'_' if line.is_empty() => whole(Reply::Nil),
        b'#' if matches!(line, b"t" | b"f") => whole(Reply::Integer((line == b"t").into())),
        b',' if is_double(line) => whole(Reply::Bulk(Bytes::copy_from_slice(line))),
        b'(' if is_whole_number(line) => whole(Reply::Bulk(Bytes::copy_from_slice(line))),
        b'_' | b'#' | b',' | b'(' => {
            let shown = &input[..end.min(SHOWN)];
            Err(nonsense(format!("\"{}\", which is no value", shown.escape_ascii())))
        }
        b'$' | b'!' | b'=' => match length(line, longest)? {
            None => whole(Reply::Nil),
            Some(length) => {
                let Some(body) = input.get(used..used + length + 2) else {
                    return Ok(None);
                };
                if &body[length..] != b"\r\n" {
                    return Err(nonsense(format!("a bulk string of {length} bytes without its CR LF")));
                }
                let reply = blob(kind, &body[..length])?;
                Ok(Some((Piece::Whole(reply), used + length + 2)))
            }
        },
        b'%' | b'|' => {
            let count = 2 * length(line, MAX_ITEMS / 2)?.unwrap_or(0);
            let begun = if kind == b'%' {
                Piece::Array(count)
            } else {
                Piece::Attribute(count)
            };
            Ok(Some((begun, used)))
        }
        _ => match length(line, MAX_ITEMS)? {
            None => whole(Reply::Nil),
            Some(count) => Ok(Some((Piece::Array(count), used))),
        },
    }
}

/// A bulk string, a blob error or a verbatim string.
fn blob(kind: u8, body: &[u8]) -> Result<Reply, ProtocolError> {
    match (kind, body) {
        (b'!', _) => Ok(Reply::Error(String::from_utf8_lossy(body).into_owned())),
        // Three bytes of format and a colon come before the text.
        (b'=', [_, _, _, b':', text @ ..]) => Ok(Reply::Bulk(Bytes::copy_from_slice(text))),
        (b'=', _) => Err(nonsense("a verbatim string without its format")),
        (_, _) => Ok(Reply::Bulk(Bytes::copy_from_slice(body))),
    }
}

fn is_double(line: &[u8]) -> bool {
    std::str::from_utf8(line).is_ok_and(|text| text.parse::<f64>().is_ok())
}

fn is_whole_number(line: &[u8]) -> bool {
    let digits = line
        .strip_prefix(b"-")
        .or_else(|| line.strip_prefix(b"+"))
        .unwrap_or(line);
    !digits.is_empty() && digits.iter().all(u8::is_ascii_digit)
}

fn number(line: &[u8]) -> Result<i64, ProtocolError> {
    std::str::from_utf8(line)
        .ok()
        .and_then(|text| text.parse().ok())
        .ok_or_else(|| {
            let shown = &line[..line.len().min(SHOWN)];
            nonsense(format!("\"{}\" where a number belongs", shown.escape_ascii()))
        })
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
mod tests;
