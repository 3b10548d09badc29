//! Whatever bytes a server sends, in whatever pieces: the codec never panics, never keeps more than it may, gives the
//! same replies however the bytes are cut, and reads back what it was written from.

#![no_main]

// The modules under test alone: nothing of Kubernetes has to be built for them.
#[allow(dead_code, reason = "a part of the modules only")]
#[path = "../../src/cluster/mod.rs"]
mod cluster;

use bytes::BytesMut;
use cluster::resp::{Reply, RespCodec};
use libfuzzer_sys::fuzz_target;
use tokio_util::codec::Decoder;

/// Every reply up to the first error, with the error's text, from the bytes cut as `cuts` says.
fn replies(bytes: &[u8], cuts: &[u8]) -> (Vec<Reply>, Option<String>) {
    let (mut codec, mut input, mut replies) = (RespCodec::default(), BytesMut::new(), Vec::new());
    let mut rest = bytes;
    let mut cuts = cuts.iter().cycle();
    loop {
        loop {
            match codec.decode(&mut input) {
                Ok(Some(reply)) => replies.push(reply),
                Ok(None) => break,
                Err(error) => {
                    let text = error.to_string();
                    // At most four characters (\x00) for each of the 80 bytes that are shown, and the words around them.
                    assert!(text.len() < 1000, "{text}");
                    return (replies, Some(text));
                }
            }
        }
        if rest.is_empty() {
            return (replies, None);
        }
        let size = cuts.next().map_or(rest.len(), |cut| usize::from(*cut) + 1).min(rest.len());
        let (piece, after) = rest.split_at(size);
        input.extend_from_slice(piece);
        rest = after;
    }
}

fuzz_target!(|data: (&[u8], Vec<u8>)| -> libfuzzer_sys::Corpus { check(data.0, &data.1) });

fn check(bytes: &[u8], cuts: &[u8]) -> libfuzzer_sys::Corpus {
    let (whole, error) = replies(bytes, &[]);
    let (in_pieces, error_in_pieces) = replies(bytes, cuts);
    assert_eq!(whole, in_pieces, "the cuts changed the replies");
    // What was seen of the nonsense differs by what had come of it; that there is one does not.
    assert_eq!(error.is_some(), error_in_pieces.is_some(), "{error:?} {error_in_pieces:?}");
    let mut written = Vec::new();
    whole.iter().for_each(|reply| reply.encode(&mut written));
    assert_eq!(replies(&written, cuts), (whole, None), "written and read back");
    libfuzzer_sys::Corpus::Keep
}
