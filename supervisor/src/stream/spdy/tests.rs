//! Two ends of the protocol in memory, and bytes that no end would send.

use proptest::prelude::*;

use super::frame::encode_data;
use super::*;

/// A client and a server whose output goes to the other at once, in pieces of `step` bytes.
struct Pair {
    client: Connection,
    server: Connection,
    step: usize,
}

impl Pair {
    fn new(step: usize) -> Self {
        Self { client: Connection::new(Role::Client), server: Connection::new(Role::Server), step }
    }

    /// Until both are at rest, or full.
    fn drive(&mut self) {
        loop {
            let moved = exchange(&mut self.client, &mut self.server, self.step)
                | exchange(&mut self.server, &mut self.client, self.step);
            if !moved {
                return;
            }
        }
    }

    fn open(&mut self, kind: &str) -> StreamId {
        let id = self.client.open(&Headers(vec![("streamType".to_owned(), kind.to_owned())]));
        self.drive();
        let Some(Event::Opened { id: opened, headers }) = self.server.poll_event() else { panic!("not opened") };
        assert_eq!((opened, headers.get("streamtype")), (id, Some(kind)));
        self.server.reply(id);
        self.drive();
        id
    }
}

fn exchange(from: &mut Connection, to: &mut Connection, step: usize) -> bool {
    if from.output().is_empty() || !to.wants_input() {
        return false;
    }
    let piece = from.output().iter().copied().take(step).collect::<Vec<u8>>();
    to.handle_input(&piece).unwrap();
    from.advance_output(piece.len());
    true
}

fn read_all(connection: &mut Connection, id: StreamId) -> (Vec<u8>, Read) {
    let mut all = Vec::new();
    let mut buffer = [0; 1000];
    loop {
        match connection.read(id, &mut buffer) {
            Read::Bytes(count) => all.extend_from_slice(&buffer[..count]),
            end @ (Read::Nothing | Read::End | Read::Reset) => return (all, end),
        }
    }
}

#[test]
fn bytes_go_both_ways_and_each_way_ends_by_itself() {
    for step in [1, 7, 100_000] {
        let mut pair = Pair::new(step);
        let id = pair.open("stdin");
        assert_eq!(pair.client.write(id, b"ping"), Some(4));
        pair.client.finish(id);
        pair.drive();
        assert_eq!(read_all(&mut pair.server, id), (b"ping".to_vec(), Read::End));
        assert_eq!(pair.client.write(id, b"x"), None);
        assert_eq!(pair.server.write(id, b"pong"), Some(4));
        pair.server.finish(id);
        pair.drive();
        assert_eq!(read_all(&mut pair.client, id), (b"pong".to_vec(), Read::End));
        pair.server.release(id);
        pair.client.release(id);
        assert_eq!((pair.server.open_streams(), pair.client.open_streams()), (0, 0));
    }
}

#[test]
fn a_reset_reaches_the_other_end() {
    let mut pair = Pair::new(1000);
    let id = pair.open("data");
    pair.client.reset(id, ResetStatus::Cancel);
    pair.drive();
    assert_eq!(read_all(&mut pair.server, id).1, Read::Reset);
    assert_eq!(pair.server.write(id, b"x"), None);
}

#[test]
fn dropping_a_stream_that_is_not_finished_resets_it() {
    let mut pair = Pair::new(1000);
    let id = pair.open("data");
    pair.server.release(id);
    pair.drive();
    assert_eq!(read_all(&mut pair.client, id).1, Read::Reset);
}

/// D33
#[test]
fn a_stream_that_nobody_reads_holds_back_its_sender() {
    let mut pair = Pair::new(16 * 1024);
    let id = pair.open("data");
    let mut sent = 0;
    for _ in 0..10_000 {
        sent += pair.client.write(id, &[7; 10_000]).unwrap();
        pair.drive();
    }
    assert!(!pair.server.wants_input());
    let limit = 2 * crate::stream::STREAM_BUFFER_BYTES;
    assert!(sent < limit, "{sent} bytes were taken");
    let mut received = 0;
    while received < sent {
        received += read_all(&mut pair.server, id).0.len();
        pair.drive();
    }
    assert_eq!(received, sent);
}

#[test]
fn a_peer_that_counts_is_heeded_and_told() {
    let mut pair = Pair::new(100_000);
    let mut settings = Vec::new();
    Frame::Settings(vec![(7, 1000)]).encode(&mut settings);
    pair.server.handle_input(&settings).unwrap();
    let id = pair.open("data");
    assert_eq!(pair.server.write(id, &[0; 5000]), Some(1000));
    assert_eq!(pair.server.write(id, &[0; 5000]), Some(0));
    let mut update = Vec::new();
    Frame::WindowUpdate { id, delta: 10 }.encode(&mut update);
    pair.server.handle_input(&update).unwrap();
    assert_eq!(pair.server.write(id, &[0; 5000]), Some(10));
    pair.drive();
    assert_eq!(pair.client.write(id, &[0; 40_000]), Some(40_000));
    pair.drive();
    assert_eq!(read_all(&mut pair.server, id).0.len(), 40_000);
    // Window updates have to be read by somebody: the client's view of windows begins with them.
    assert!(!pair.server.output().is_empty());
    let mut overflow = Vec::new();
    Frame::WindowUpdate { id, delta: 0x7fff_ffff }.encode(&mut overflow);
    pair.server.handle_input(&overflow).unwrap();
    assert_eq!(pair.server.handle_input(&overflow), Err(ProtocolError::Window(id)));
}

#[test]
fn pings_are_answered_and_answers_are_not() {
    let mut server = Connection::new(Role::Server);
    let mut ping = Vec::new();
    Frame::Ping(1).encode(&mut ping);
    server.handle_input(&ping).unwrap();
    assert_eq!(server.output(), ping);
    server.advance_output(ping.len());
    let mut answer = Vec::new();
    Frame::Ping(2).encode(&mut answer);
    server.handle_input(&answer).unwrap();
    assert!(server.output().is_empty());
}

#[test]
fn streams_beyond_the_limit_are_refused_one_by_one() {
    let mut pair = Pair::new(100_000);
    for _ in 0..1024 {
        pair.open("data");
    }
    let id = pair.client.open(&Headers::default());
    pair.drive();
    assert_eq!(read_all(&mut pair.client, id).1, Read::Reset);
}

#[test]
fn wrong_frames_end_the_connection() {
    let mut client = Connection::new(Role::Client);
    client.open(&Headers::default());
    let first = client.output().len();
    client.open(&Headers::default());
    let mut twice = client.output().to_vec();
    // The second stream under the first one's number.
    twice[first + 11] = 1;
    for (bytes, error) in [
        (vec![0x80, 2, 0, 1, 0, 0, 0, 0], ProtocolError::Version(2)),
        (vec![0x80, 3, 0, 1, 0, 0xff, 0xff, 0xff], ProtocolError::FrameTooLarge(0xff_ffff)),
        (vec![0x80, 3, 0, 3, 0, 0, 0, 4, 0, 0, 0, 1], ProtocolError::FrameTooShort(3)),
        (twice, ProtocolError::StreamId(1)),
    ] {
        let mut server = Connection::new(Role::Server);
        assert_eq!(server.handle_input(&bytes), Err(error));
    }
}

fn frame() -> impl Strategy<Value = Frame> {
    let id = 0u32..0x8000_0000;
    let block = prop::collection::vec(any::<u8>(), 0..100);
    prop_oneof![
        (id.clone(), any::<bool>(), any::<bool>(), block.clone())
            .prop_map(|(id, fin, unidirectional, block)| Frame::SynStream { id, fin, unidirectional, block }),
        (id.clone(), any::<bool>(), block.clone()).prop_map(|(id, fin, block)| Frame::SynReply { id, fin, block }),
        (id.clone(), any::<u32>()).prop_map(|(id, status)| Frame::RstStream { id, status }),
        prop::collection::vec((0u32..0x0100_0000, any::<u32>()), 0..9).prop_map(Frame::Settings),
        any::<u32>().prop_map(Frame::Ping),
        (id.clone(), any::<u32>()).prop_map(|(last, status)| Frame::GoAway { last, status }),
        (id.clone(), any::<bool>(), block).prop_map(|(id, fin, block)| Frame::Headers { id, fin, block }),
        (id.clone(), id).prop_map(|(id, delta)| Frame::WindowUpdate { id, delta }),
    ]
}

/// Everything that a decoder finds in bytes that come in pieces of `step`.
fn decoded(bytes: &[u8], step: usize) -> (Vec<Frame>, Vec<u8>) {
    let (mut frames, mut data) = (Vec::new(), Vec::new());
    let mut decoder = Decoder::default();
    for mut piece in bytes.chunks(step) {
        while let Some(found) = decoder.next(&mut piece).unwrap() {
            match found {
                Piece::Control(frame) => frames.push(frame),
                Piece::Data { bytes, .. } => data.extend_from_slice(bytes),
            }
        }
    }
    (frames, data)
}

proptest! {
    #[test]
    fn frames_are_read_as_they_were_written(frames in prop::collection::vec(frame(), 0..10), payload: Vec<u8>, step in 1usize..50) {
        let mut bytes = Vec::new();
        for frame in &frames {
            frame.encode(&mut bytes);
            encode_data(&mut bytes, 5, &payload, true);
        }
        let (found, data) = decoded(&bytes, step);
        prop_assert_eq!(&found, &frames);
        prop_assert_eq!(data, payload.repeat(frames.len()));
    }

    #[test]
    fn any_bytes_are_survived(bytes: Vec<u8>, step in 1usize..20) {
        let mut server = Connection::new(Role::Server);
        for piece in bytes.chunks(step) {
            if server.handle_input(piece).is_err() {
                break;
            }
        }
    }

    /// Frames whose heads are right and whose contents need not be.
    #[test]
    fn any_frames_are_survived(frames in prop::collection::vec(frame(), 0..30), fin: bool) {
        let mut server = Connection::new(Role::Server);
        let mut client = Connection::new(Role::Client);
        let id = client.open(&Headers::default());
        server.handle_input(client.output()).unwrap();
        server.reply(id);
        for frame in frames {
            let mut bytes = Vec::new();
            frame.encode(&mut bytes);
            encode_data(&mut bytes, id, b"data", fin);
            if server.handle_input(&bytes).is_err() {
                break;
            }
            let _read = read_all(&mut server, id);
            let _written = server.write(id, b"more");
            prop_assert!(server.open_streams() <= 1024);
        }
    }
}
