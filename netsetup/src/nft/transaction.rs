//! Handing a transaction to the kernel.

use std::io;

use netlink_sys::protocols::NETLINK_NETFILTER;
use netlink_sys::{Socket, SocketAddr};

use super::{Change, Family, encode};

/// Largest answer that is read at once.
const ANSWER_BYTES: usize = 64 * 1024;
/// `NLMSG_ERROR`; with code 0 it is an acknowledgement.
const ERROR: u16 = 2;
const HEADER_BYTES: usize = 16;

/// A change that the kernel refused, and why. None of the transaction took effect.
#[derive(Debug, thiserror::Error)]
pub enum TransactionError {
    #[error("{call}: {source}")]
    Socket { call: &'static str, source: io::Error },
    #[error("nftables refused {change}: {source}")]
    Refused { change: String, source: io::Error },
}

impl TransactionError {
    /// What was to be deleted is not there.
    pub(crate) fn is_not_found(&self) -> bool {
        matches!(self, Self::Refused { source, .. } if source.raw_os_error() == Some(rustix::io::Errno::NOENT.raw_os_error()))
    }
}

/// Applies all changes or none.
pub(crate) fn apply(changes: &[Change]) -> Result<(), TransactionError> {
    if changes.is_empty() {
        return Ok(());
    }
    let call = |call| move |source| TransactionError::Socket { call, source };
    let mut socket = Socket::new(NETLINK_NETFILTER).map_err(call("socket(NETLINK_NETFILTER)"))?;
    socket.bind_auto().map_err(call("bind"))?;
    socket.connect(&SocketAddr::new(0, 0)).map_err(call("connect"))?;
    socket.send(&encode(changes), 0).map_err(call("send"))?;
    let mut left = changes.len();
    let mut buffer = Vec::with_capacity(ANSWER_BYTES);
    while left > 0 {
        buffer.clear();
        socket.recv(&mut buffer, 0).map_err(call("recv"))?;
        for (number, code) in answers(&buffer) {
            if code != 0 {
                let change = changes.get(usize::try_from(number).unwrap_or(0).wrapping_sub(1));
                let change = change.map_or_else(|| "the transaction".to_owned(), |change| format!("{change:?}"));
                return Err(TransactionError::Refused { change, source: io::Error::from_raw_os_error(-code) });
            }
            left -= 1;
        }
    }
    Ok(())
}

/// Whether our table of this family is there: an element can be added to it (and is removed in the same transaction).
pub(crate) fn table_exists(family: Family) -> bool {
    let (set, element) = match family {
        Family::Inet => (super::PORTS_V4, super::Element { key: vec![0xff; 12], data: Some(vec![0; 8]) }),
        Family::Bridge => (super::KNOWN_V4, super::Element { key: vec![0xff; 28], data: None }),
    };
    let add = Change::AddElement { family, set, element: element.clone() };
    apply(&[add, Change::DeleteElement { family, set, element }]).is_ok()
}

/// Sequence number and error code of each answer in a buffer.
fn answers(buffer: &[u8]) -> Vec<(u32, i32)> {
    let mut found = Vec::new();
    let mut rest = buffer;
    while rest.len() >= HEADER_BYTES + 4 {
        let word =
            |at: usize| rest.get(at..at + 4).and_then(|bytes| bytes.try_into().ok()).map_or(0, u32::from_ne_bytes);
        let kind = rest.get(4..6).and_then(|bytes| bytes.try_into().ok()).map_or(0, u16::from_ne_bytes);
        if kind == ERROR {
            found.push((word(8), word(HEADER_BYTES).cast_signed()));
        }
        let len = usize::try_from(word(0)).unwrap_or(usize::MAX).next_multiple_of(4);
        match rest.get(len..) {
            Some(after) if len >= HEADER_BYTES => rest = after,
            _ => break,
        }
    }
    found
}
