//! The protocol without a socket.
//!
//! Bytes go in by [`Connection::handle_input`]; afterwards [`Connection::poll_event`] tells what happened, and
//! [`Connection::output`] what has to be sent. Nothing here blocks, waits or knows the time.

use std::collections::{BTreeMap, VecDeque};

use super::frame::{MAX_DATA_BYTES, encode_data};
use super::headers::{Deflater, Headers, Inflater};
use super::{Decoder, Frame, Piece, ProtocolError, ResetStatus, StreamId};
use crate::stream::STREAM_BUFFER_BYTES;

/// Most streams that a peer may have open at once; more are refused one by one.
pub const MAX_STREAMS: usize = 1024;
/// What is buffered of all streams of a connection that came in.
const CONNECTION_BUFFER_BYTES: usize = 4 * STREAM_BUFFER_BYTES;
/// Bytes that wait for the socket; beyond, streams take nothing.
const OUTPUT_BYTES: usize = 128 * 1024;
/// Replies to pings and the like that may wait besides; a peer that makes us answer without reading is cut off from being
/// read.
const OUTPUT_HARD_BYTES: usize = 2 * OUTPUT_BYTES;
/// SPDY/3's initial window.
const INITIAL_WINDOW: i64 = 64 * 1024;
const MAX_WINDOW: i64 = 0x7fff_ffff;
/// SETTINGS_INITIAL_WINDOW_SIZE.
const SETTING_INITIAL_WINDOW: u32 = 7;

/// Which side we are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    Client,
    Server,
}

/// What the peer did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A stream that it opened, to be answered by [`Connection::reply`] or [`Connection::reset`].
    Opened { id: StreamId, headers: Headers },
    /// Data, the end, or a reset is there to be read.
    Readable(StreamId),
    /// The stream takes data again.
    Writable(StreamId),
    /// It opens no more streams.
    GoneAway,
}

/// What reading a stream gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Read {
    Bytes(usize),
    Nothing,
    End,
    Reset,
}

#[derive(Debug)]
struct Entry {
    received: VecDeque<u8>,
    /// The peer has finished.
    remote_ended: bool,
    local_ended: bool,
    reset: bool,
    /// Nobody reads any more: what comes is dropped.
    discard: bool,
    /// What the peer lets us send, if it counts.
    window: i64,
    /// Read, but not yet told to the peer.
    unacknowledged: u32,
}

impl Entry {
    fn new(window: i64, remote_ended: bool, local_ended: bool) -> Self {
        let received = VecDeque::new();
        Self { received, remote_ended, local_ended, reset: false, discard: false, window, unacknowledged: 0 }
    }

    fn is_over(&self) -> bool {
        self.discard && (self.reset || (self.remote_ended && self.local_ended))
    }
}

/// One end of a connection.
#[derive(Debug)]
pub struct Connection {
    role: Role,
    decoder: Decoder,
    inflater: Inflater,
    deflater: Deflater,
    streams: BTreeMap<StreamId, Entry>,
    events: VecDeque<Event>,
    output: Vec<u8>,
    sent: usize,
    /// The highest that the peer opened.
    last_remote: StreamId,
    next_local: StreamId,
    /// The peer has shown that it knows windows.
    windows: bool,
    initial_window: i64,
    gone_away: bool,
}

impl Connection {
    pub fn new(role: Role) -> Self {
        Self {
            role,
            decoder: Decoder::default(),
            inflater: Inflater::default(),
            deflater: Deflater::default(),
            streams: BTreeMap::new(),
            events: VecDeque::new(),
            output: Vec::new(),
            sent: 0,
            last_remote: 0,
            next_local: if role == Role::Client { 1 } else { 2 },
            windows: false,
            initial_window: INITIAL_WINDOW,
            gone_away: false,
        }
    }

    /// Takes what came from the peer. An error ends the connection; a GOAWAY is in the output then.
    pub fn handle_input(&mut self, bytes: &[u8]) -> Result<(), ProtocolError> {
        let handled = self.take(bytes);
        if handled.is_err() {
            self.frame(&Frame::GoAway { last: self.last_remote, status: 1 });
        }
        handled
    }

    fn take(&mut self, bytes: &[u8]) -> Result<(), ProtocolError> {
        let mut rest = bytes;
        let mut decoder = std::mem::take(&mut self.decoder);
        let result = loop {
            match decoder.next(&mut rest) {
                Ok(None) => break Ok(()),
                Ok(Some(Piece::Data { id, bytes, fin })) => self.data(id, bytes, fin),
                Ok(Some(Piece::Control(frame))) => match self.control(frame) {
                    Ok(()) => {}
                    Err(error) => break Err(error),
                },
                Err(error) => break Err(error),
            }
        };
        self.decoder = decoder;
        result
    }

    fn data(&mut self, id: StreamId, bytes: &[u8], fin: bool) {
        // What is on its way to a stream that has ended is of no interest.
        let Some(entry) = self.streams.get_mut(&id).filter(|entry| !entry.remote_ended && !entry.reset) else { return };
        if entry.discard {
            self.acknowledge(id, bytes.len());
        } else if !bytes.is_empty() {
            entry.received.extend(bytes);
            self.events.push_back(Event::Readable(id));
        }
        if fin {
            self.remote_end(id);
        }
    }

    fn remote_end(&mut self, id: StreamId) {
        if let Some(entry) = self.streams.get_mut(&id) {
            entry.remote_ended = true;
            self.events.push_back(Event::Readable(id));
            self.collect(id);
        }
    }

    fn control(&mut self, frame: Frame) -> Result<(), ProtocolError> {
        match frame {
            Frame::SynStream { id, fin, unidirectional, block } => self.syn_stream(id, fin, unidirectional, &block)?,
            Frame::SynReply { id, fin, block } | Frame::Headers { id, fin, block } => {
                self.inflater.read(&block)?;
                if fin {
                    self.remote_end(id);
                }
            }
            Frame::RstStream { id, .. } => {
                if let Some(entry) = self.streams.get_mut(&id) {
                    entry.reset = true;
                    self.events.push_back(Event::Readable(id));
                    self.events.push_back(Event::Writable(id));
                    self.collect(id);
                }
            }
            Frame::Settings(settings) => self.settings(&settings),
            // Its own are of its parity; others are answers to ours, which are for nobody.
            Frame::Ping(id) if self.is_remote(id) => self.frame(&Frame::Ping(id)),
            Frame::Ping(_) => {}
            Frame::GoAway { .. } => {
                self.gone_away = true;
                self.events.push_back(Event::GoneAway);
            }
            Frame::WindowUpdate { id, delta } => self.window_update(id, delta)?,
        }
        Ok(())
    }

    fn syn_stream(&mut self, id: StreamId, fin: bool, one_way: bool, block: &[u8]) -> Result<(), ProtocolError> {
        let headers = self.inflater.read(block)?;
        if !self.is_remote(id) || id <= self.last_remote {
            return Err(ProtocolError::StreamId(id));
        }
        self.last_remote = id;
        if self.streams.len() >= MAX_STREAMS || self.gone_away {
            self.frame(&Frame::RstStream { id, status: ResetStatus::RefusedStream as u32 });
            return Ok(());
        }
        self.streams.insert(id, Entry::new(self.initial_window, fin, one_way));
        self.events.push_back(Event::Opened { id, headers });
        Ok(())
    }

    fn settings(&mut self, settings: &[(u32, u32)]) {
        for (_, value) in settings.iter().filter(|(id, _)| *id == SETTING_INITIAL_WINDOW) {
            let window = i64::from(*value).min(MAX_WINDOW);
            let change = window - self.initial_window;
            self.initial_window = window;
            self.windows = true;
            for (id, entry) in &mut self.streams {
                entry.window += change;
                self.events.push_back(Event::Writable(*id));
            }
        }
    }

    fn window_update(&mut self, id: StreamId, delta: u32) -> Result<(), ProtocolError> {
        self.windows = true;
        if let Some(entry) = self.streams.get_mut(&id) {
            entry.window += i64::from(delta);
            if entry.window > MAX_WINDOW {
                return Err(ProtocolError::Window(id));
            }
            self.events.push_back(Event::Writable(id));
        }
        Ok(())
    }

    fn is_remote(&self, id: u32) -> bool {
        let odd = id % 2 == 1;
        id != 0 && odd == (self.role == Role::Server)
    }

    /// The next thing that the peer did.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Whether more input can be taken: no stream is full, and our answers find their way out.
    pub fn wants_input(&self) -> bool {
        let sizes = self.streams.values().map(|entry| entry.received.len());
        let (sum, largest) = sizes.fold((0, 0), |(sum, largest), size| (sum + size, size.max(largest)));
        self.pending() < OUTPUT_HARD_BYTES && sum < CONNECTION_BUFFER_BYTES && largest < STREAM_BUFFER_BYTES
    }

    /// What has to be sent.
    pub fn output(&self) -> &[u8] {
        self.output.get(self.sent..).unwrap_or_default()
    }

    /// So many bytes of the output are sent.
    pub fn advance_output(&mut self, count: usize) {
        self.sent += count;
        if self.sent >= self.output.len() {
            self.sent = 0;
            self.output.clear();
            // An idle connection keeps no buffer.
            if self.output.capacity() > MAX_DATA_BYTES {
                self.output = Vec::new();
            }
        }
    }

    fn pending(&self) -> usize {
        self.output.len() - self.sent
    }

    fn frame(&mut self, frame: &Frame) {
        frame.encode(&mut self.output);
    }

    /// Opens a stream.
    pub fn open(&mut self, headers: &Headers) -> StreamId {
        let id = self.next_local;
        self.next_local += 2;
        let block = self.deflater.write(headers);
        self.frame(&Frame::SynStream { id, fin: false, unidirectional: false, block });
        self.streams.insert(id, Entry::new(self.initial_window, false, false));
        id
    }

    /// Accepts a stream.
    pub fn reply(&mut self, id: StreamId) {
        let block = self.deflater.write(&Headers::default());
        self.frame(&Frame::SynReply { id, fin: false, block });
    }

    /// Ends a stream in both directions.
    pub fn reset(&mut self, id: StreamId, status: ResetStatus) {
        if let Some(entry) = self.streams.remove(&id)
            && !entry.reset
        {
            self.frame(&Frame::RstStream { id, status: status as u32 });
        }
    }

    /// How much of `bytes` was taken; 0 when there is no room. None when the stream can't be written to any more.
    pub fn write(&mut self, id: StreamId, bytes: &[u8]) -> Option<usize> {
        let room = OUTPUT_BYTES.saturating_sub(self.pending());
        let windows = self.windows;
        let entry = self.streams.get_mut(&id).filter(|entry| !entry.local_ended && !entry.reset)?;
        let window = if windows { usize::try_from(entry.window).unwrap_or(0) } else { usize::MAX };
        let count = bytes.len().min(room).min(window).min(MAX_DATA_BYTES);
        if count > 0 {
            entry.window -= i64::try_from(count).unwrap_or(0);
            encode_data(&mut self.output, id, bytes.get(..count).unwrap_or_default(), false);
        }
        Some(count)
    }

    /// Nothing more will be written: the other direction goes on.
    pub fn finish(&mut self, id: StreamId) {
        if let Some(entry) = self.streams.get_mut(&id)
            && !entry.local_ended
            && !entry.reset
        {
            entry.local_ended = true;
            encode_data(&mut self.output, id, &[], true);
            self.collect(id);
        }
    }

    /// Takes what came.
    pub fn read(&mut self, id: StreamId, into: &mut [u8]) -> Read {
        let Some(entry) = self.streams.get_mut(&id) else { return Read::Reset };
        if entry.received.is_empty() {
            return match (entry.reset, entry.remote_ended) {
                (_, true) => Read::End,
                (true, false) => Read::Reset,
                (false, false) => Read::Nothing,
            };
        }
        let (front, _) = entry.received.as_slices();
        let count = front.len().min(into.len());
        if let (Some(to), Some(from)) = (into.get_mut(..count), front.get(..count)) {
            to.copy_from_slice(from);
        }
        entry.received.drain(..count);
        if entry.received.is_empty() && entry.received.capacity() > MAX_DATA_BYTES {
            entry.received = VecDeque::new();
        }
        self.acknowledge(id, count);
        Read::Bytes(count)
    }

    /// Tells a peer that counts that there is room again, in large steps.
    fn acknowledge(&mut self, id: StreamId, count: usize) {
        let windows = self.windows;
        let Some(entry) = self.streams.get_mut(&id) else { return };
        entry.unacknowledged = entry.unacknowledged.saturating_add(u32::try_from(count).unwrap_or(u32::MAX));
        if windows && i64::from(entry.unacknowledged) >= INITIAL_WINDOW / 2 && !entry.remote_ended {
            let delta = std::mem::take(&mut entry.unacknowledged);
            self.frame(&Frame::WindowUpdate { id, delta });
        }
    }

    /// Nobody holds the stream any more.
    pub fn release(&mut self, id: StreamId) {
        let Some(entry) = self.streams.get_mut(&id) else { return };
        entry.discard = true;
        entry.received = VecDeque::new();
        if !entry.local_ended {
            self.reset(id, ResetStatus::Cancel);
        } else {
            self.collect(id);
        }
    }

    fn collect(&mut self, id: StreamId) {
        if self.streams.get(&id).is_some_and(Entry::is_over) {
            self.streams.remove(&id);
        }
    }

    /// Streams that have not ended in both directions.
    pub fn open_streams(&self) -> usize {
        self.streams.len()
    }

    /// Tells the peer that the connection ends.
    pub fn go_away(&mut self) {
        if !self.gone_away {
            self.gone_away = true;
            self.frame(&Frame::GoAway { last: self.last_remote, status: 0 });
        }
    }
}
