//! Loads rules: one transaction each, which the kernel takes whole or not at all.

use netlink_sys::protocols::NETLINK_NETFILTER;
use rustix::io::Errno;

use crate::error::NetworkError;
use crate::netlink::Conversation;
use crate::nft::{Op, wire};

/// The rules of the network namespace in which it was opened.
#[derive(Debug)]
pub(crate) struct Rules(Conversation);

impl Rules {
    pub(crate) fn open() -> Result<Self, NetworkError> {
        let source = |source| NetworkError::Netlink { call: "socket(NETLINK_NETFILTER)", source };
        let conversation = Conversation::open(NETLINK_NETFILTER).map_err(source)?;
        conversation.enlarge().map_err(source)?;
        Ok(Self(conversation))
    }

    /// # Errors
    /// The first operation that the kernel refused; then none was done.
    pub(crate) fn commit(&mut self, ops: &[Op]) -> Result<(), NetworkError> {
        if ops.is_empty() {
            return Ok(());
        }
        let length = wire::batch(ops, 0).len();
        let first = self.0.numbers(length);
        let batch = wire::batch(ops, first);
        let source = |source| NetworkError::Netlink { call: "send(nftables batch)", source };
        let answers = self.0.transact(&batch).map_err(source)?;
        if let Some((number, errno)) =
            answers.iter().find_map(|answer| answer.result.err().map(|errno| (answer.sequence - first, errno)))
        {
            return Err(NetworkError::Kernel {
                call: format!("nftables transaction of {length}, message {number}"),
                errno,
            });
        }
        // The last operation stands before the end of the batch and asked for an answer.
        let last = first.wrapping_add(u32::try_from(length).unwrap_or_default()).wrapping_sub(2);
        let answered = answers.iter().any(|answer| answer.sequence == last);
        if answered {
            Ok(())
        } else {
            Err(NetworkError::NoAnswer { call: format!("nftables transaction of {length}") })
        }
    }

    /// For what is to be gone: if some of it is gone already, each on its own.
    pub(crate) fn commit_each(&mut self, ops: &[Op]) -> Result<(), NetworkError> {
        match self.commit(ops) {
            Err(NetworkError::Kernel { errno: Errno::NOENT, .. }) => {}
            result => return result,
        }
        for op in ops.iter().flat_map(single) {
            match self.commit(&[op]) {
                Ok(()) | Err(NetworkError::Kernel { errno: Errno::NOENT, .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// One operation for each element.
fn single(op: &Op) -> Vec<Op> {
    let Op::DeleteElements(elements) = op else {
        return vec![op.clone()];
    };
    let one = |element: &crate::nft::Element| {
        Op::DeleteElements(crate::nft::Elements { elements: vec![element.clone()], ..elements.clone() })
    };
    elements.elements.iter().map(one).collect()
}
