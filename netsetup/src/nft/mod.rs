//! nftables as data: what we put into the kernel, and nothing that we find there. [`rules`] and `tables` decide, [`wire`] renders.

pub mod rules;
mod tables;
pub mod wire;

use std::fmt;

/// The kernel's families that we use (`NFPROTO_*`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    Inet,
    Bridge,
}

/// A table of ours; no other is ever named in a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    pub family: Family,
    pub name: String,
}

/// One operation of a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    AddTable(Table),
    DeleteTable(Table),
    AddSet(Table, Set),
    AddChain(Table, Chain),
    /// Appended to the named chain.
    AddRule(Table, &'static str, Vec<Expr>),
    AddElements(Elements),
    DeleteElements(Elements),
}

impl Op {
    /// What takes the operation back; none where deleting the table does.
    #[must_use]
    pub fn inverse(&self) -> Option<Self> {
        match self {
            Self::AddTable(table) => Some(Self::DeleteTable(table.clone())),
            Self::AddElements(elements) => Some(Self::DeleteElements(elements.clone())),
            Self::DeleteTable(_)
            | Self::AddSet(..)
            | Self::AddChain(..)
            | Self::AddRule(..)
            | Self::DeleteElements(_) => None,
        }
    }
}

/// A set, or a map when it has data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Set {
    pub name: &'static str,
    pub key: &'static [Type],
    pub data: &'static [Type],
}

/// Elements of one set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Elements {
    pub table: Table,
    pub set: &'static str,
    pub elements: Vec<Element>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Element {
    pub key: Vec<Value>,
    /// Empty in a set.
    pub data: Vec<Value>,
}

/// The type of one field of a key; the numbers are those of nft, which prints a set by them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Type {
    Ipv4,
    Ipv6,
    Ether,
    Protocol,
    Service,
    Ifname,
}

impl Type {
    /// In octets; in registers a field begins at a multiple of four.
    fn length(self) -> u32 {
        match self {
            Self::Protocol => 1,
            Self::Service => 2,
            Self::Ipv4 => 4,
            Self::Ether => 6,
            Self::Ipv6 | Self::Ifname => 16,
        }
    }

    fn number(self) -> u32 {
        match self {
            Self::Ipv4 => 7,
            Self::Ipv6 => 8,
            Self::Ether => 9,
            Self::Protocol => 12,
            Self::Service => 13,
            Self::Ifname => 41,
        }
    }
}

/// One field of an element.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    Ipv4(std::net::Ipv4Addr),
    Ipv6(std::net::Ipv6Addr),
    Ether(crate::names::Mac),
    Protocol(Protocol),
    Service(u16),
    Ifname(String),
}

/// A transport protocol with ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Protocol {
    Tcp,
    Udp,
    Sctp,
}

impl Protocol {
    /// IANA's number.
    #[must_use]
    pub fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
            Self::Sctp => "SCTP",
        })
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    pub name: &'static str,
    /// None for a chain that is only jumped to.
    pub base: Option<Base>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Base {
    pub kind: Kind,
    pub hook: Hook,
    pub priority: i32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Filter,
    Nat,
}

/// The hooks that we use; inet and bridge number them alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hook {
    Prerouting,
    Input,
    Output,
    Postrouting,
}

/// A 32-bit register, 0 to 15.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reg(pub u32);

/// One expression of a rule, as the kernel runs them: loads into registers, then comparisons.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expr {
    Meta(Meta, Reg),
    Payload {
        base: PayloadBase,
        offset: u32,
        length: u32,
        to: Reg,
    },
    /// The kind of the destination address by the routing table.
    FibDaddrType(Reg),
    CtStatus(Reg),
    Mask {
        register: Reg,
        mask: Vec<u8>,
    },
    Compare {
        register: Reg,
        equal: bool,
        value: Vec<u8>,
    },
    /// With a register for data: a map; the rule ends when nothing is found.
    Lookup {
        set: &'static str,
        from: Reg,
        to: Option<Reg>,
        found: bool,
    },
    Dnat {
        v6: bool,
        address: Reg,
        port: Reg,
    },
    Masquerade,
    Verdict(Verdict),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Meta {
    Iifname,
    Oifname,
    Nfproto,
    L4proto,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PayloadBase {
    Link,
    Network,
    Transport,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Accept,
    Drop,
    Return,
    Jump(&'static str),
}
