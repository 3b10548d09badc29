use super::*;
use proptest::prelude::*;
use rstest::rstest;

fn decode(bytes: &[u8]) -> Result<Option<Reply>, ProtocolError> {
    RespCodec::default().decode(&mut BytesMut::from(bytes))
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

fn bulk(text: &'static str) -> Reply {
    Reply::Bulk(Bytes::from_static(text.as_bytes()))
}

#[rstest]
#[case(b"_\r\n", Reply::Nil)]
#[case(b"#t\r\n", Reply::Integer(1))]
#[case(b"#f\r\n", Reply::Integer(0))]
#[case(b",3.14\r\n", bulk("3.14"))]
#[case(b",-inf\r\n", bulk("-inf"))]
#[case(b",nan\r\n", bulk("nan"))]
#[case(
    b"(-3492890328409238509324850943850943825024385\r\n",
    bulk("-3492890328409238509324850943850943825024385")
)]
#[case(b"!21\r\nSYNTAX invalid syntax\r\n", Reply::Error("SYNTAX invalid syntax".into()))]
#[case(b"=15\r\ntxt:Some string\r\n", bulk("Some string"))]
#[case(b"=4\r\nmkd:\r\n", bulk(""))]
#[case(b"%0\r\n", Reply::Array(vec![]))]
#[case(
    b"%2\r\n$6\r\nserver\r\n$5\r\nredis\r\n$5\r\nproto\r\n:3\r\n",
    Reply::Array(vec![bulk("server"), bulk("redis"), bulk("proto"), Reply::Integer(3)])
)]
#[case(b"~2\r\n#t\r\n_\r\n", Reply::Array(vec![Reply::Integer(1), Reply::Nil]))]
#[case(b">2\r\n$10\r\ninvalidate\r\n*-1\r\n", Reply::Array(vec![bulk("invalidate"), Reply::Nil]))]
#[case(b"|1\r\n+ttl\r\n:3600\r\n*1\r\n:7\r\n", Reply::Array(vec![Reply::Integer(7)]))]
fn decodes_the_third_version(#[case] bytes: &[u8], #[case] reply: Reply) {
    decodes(bytes, reply);
}

#[rstest]
#[case(b"_x\r\n")]
#[case(b"#yes\r\n")]
#[case(b",1.2.3\r\n")]
#[case(b"(12a\r\n")]
#[case(b"(-\r\n")]
#[case(b"=3\r\ntxt\r\n")]
#[case(b"=9\r\nmarkdown:\r\n")]
#[case(b"$?\r\n;4\r\nabcd\r\n;0\r\n")]
#[case(b"%99999999\r\n")]
#[case(b"~99999999999\r\n")]
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
    assert!(decode(&b"%1\r\n+a\r\n".repeat(MAX_DEPTH + 2)).is_err());
    assert!(decode(&b"|1\r\n".repeat(MAX_DEPTH + 2)).is_err());
    let ended = [endless.as_slice(), b"\r\n"].concat();
    assert!(decode(&ended).is_err());
}

/// Feeds a codec a beginning and then the same bytes for ever, and returns the error, with the most that it kept.
fn endless(beginning: &[u8], repeated: &[u8]) -> (String, usize) {
    let (mut codec, mut input) = (RespCodec::default(), BytesMut::from(beginning));
    let mut most = 0;
    loop {
        match codec.decode(&mut input) {
            Ok(None) => input.extend_from_slice(repeated),
            Ok(Some(reply)) => panic!("{reply}"),
            Err(error) => return (error.to_string(), most),
        }
        most = most.max(input.len());
    }
}

#[rstest]
#[case(b"$5000000\r\n", &[b'a'; 4096], "without its CR LF, in \"$5000000\\r\\naaa")]
#[case(b"$99999999999\r\n", b"a", "a length of 99999999999, in \"$99999999999")]
#[case(b"*1000000\r\n", &[b"*2\r\n:1\r\n:2\r\n".as_slice(); 99].concat(), "1048576 elements, in \"*1000000\\r\\n*2")]
#[case(b"*1000000\r\n", b"$999\r\n", "without its CR LF")]
#[case(b"*100000\r\n", &[b"$990\r\n".as_slice(), &[b'a'; 990], b"\r\n"].concat(), "8388608 bytes or")]
#[case(b"", b"*1\r\n", "arrays nested deeper than 16, in \"*1\\r\\n*1")]
#[case(b"+", &[b'a'; 1000], "a line longer than 65536 bytes, in \"+aaaa")]
fn what_never_ends_is_refused_and_not_kept(#[case] first: &[u8], #[case] repeated: &[u8], #[case] says: &str) {
    let (error, most) = endless(first, repeated);
    assert!(error.contains(says) && error.len() < 300, "{error}");
    assert!(most <= MAX_REPLY + 2 * repeated.len(), "{most} bytes were kept");
}

fn any_reply() -> impl Strategy<Value = Reply> {
    let leaf = prop_oneof![
        "[^\r\n]{0,20}".prop_map(Reply::Simple),
        "(?s).{0,20}".prop_map(Reply::Error),
        any::<i64>().prop_map(Reply::Integer),
        proptest::collection::vec(any::<u8>(), 0..40).prop_map(|bytes| Reply::Bulk(bytes.into())),
        Just(Reply::Nil),
    ];
    leaf.prop_recursive(3, 20, 5, |inner| {
        proptest::collection::vec(inner, 0..5).prop_map(Reply::Array)
    })
}

/// The same reply in the third version's types wherever there is one; `turns` says which.
fn encode_third(reply: &Reply, turns: &mut impl Iterator<Item = u8>, out: &mut Vec<u8>) {
    let turn = turns.next().unwrap_or(0);
    if turn % 5 == 4 {
        out.extend(b"|1\r\n+key\r\n,0.5\r\n");
    }
    match reply {
        Reply::Error(text) => out.extend(format!("!{}\r\n{text}\r\n", text.len()).into_bytes()),
        Reply::Integer(number @ (0 | 1)) => out.extend(if *number == 1 { b"#t\r\n" } else { b"#f\r\n" }),
        Reply::Bulk(bytes) => {
            out.extend(format!("={}\r\ntxt:", bytes.len() + 4).into_bytes());
            out.extend_from_slice(bytes);
            out.extend(b"\r\n");
        }
        Reply::Array(items) => {
            let (kind, count) = match turn % 3 {
                0 if items.len().is_multiple_of(2) => ('%', items.len() / 2),
                1 => ('~', items.len()),
                _ => ('>', items.len()),
            };
            out.extend(format!("{kind}{count}\r\n").into_bytes());
            items.iter().for_each(|item| encode_third(item, turns, out));
        }
        Reply::Nil => out.extend(b"_\r\n"),
        Reply::Simple(_) | Reply::Integer(_) => reply.encode(out),
    }
}

proptest! {
    #[test]
    fn every_reply_survives_the_third_version(
        reply in any_reply(),
        turns in proptest::collection::vec(any::<u8>(), 30),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut bytes = Vec::new();
        encode_third(&reply, &mut turns.into_iter(), &mut bytes);
        let cut = cut.index(bytes.len());
        let (mut codec, mut input) = (RespCodec::default(), BytesMut::from(&bytes[..cut]));
        prop_assert_eq!(codec.decode(&mut input).unwrap(), None);
        input.extend_from_slice(&bytes[cut..]);
        prop_assert_eq!(codec.decode(&mut input).unwrap(), Some(reply));
        prop_assert!(input.is_empty());
    }

    #[test]
    fn every_reply_survives(reply in any_reply(), rest in proptest::collection::vec(any::<u8>(), 0..10)) {
        let mut bytes = Vec::new();
        reply.encode(&mut bytes);
        let length = bytes.len();
        bytes.extend(&rest);
        let mut input = BytesMut::from(&bytes[..]);
        prop_assert_eq!(RespCodec::default().decode(&mut input).unwrap(), Some(reply));
        prop_assert_eq!(&input[..], &bytes[length..]);
    }

    #[test]
    fn a_reply_in_pieces_is_the_same_reply(reply in any_reply(), chunk in 1_usize..20) {
        let mut bytes = Vec::new();
        reply.encode(&mut bytes);
        let (mut codec, mut input, mut decoded) = (RespCodec::default(), BytesMut::new(), None);
        for piece in bytes.chunks(chunk) {
            prop_assert_eq!(&decoded, &None, "before the end");
            input.extend_from_slice(piece);
            decoded = codec.decode(&mut input).unwrap();
        }
        prop_assert_eq!(decoded, Some(reply));
        prop_assert_eq!(codec.so_far(&input), None);
    }

    #[test]
    fn never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = decode(&bytes);
    }
}
