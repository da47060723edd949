//! Header blocks: names and values, compressed over the life of a connection with SPDY's dictionary.

use std::sync::LazyLock;

use flate2::{Decompress, FlushDecompress, Status};

use super::ProtocolError;

/// Longest block of headers, inflated.
pub const MAX_HEADER_BYTES: usize = 16 * 1024;
/// Most headers of one block.
pub const MAX_HEADERS: usize = 100;

/// Names as on the wire (lower case) with their values.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Headers(pub Vec<(String, String)>);

impl Headers {
    /// The first value of a header; case does not matter.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(have, _)| have.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    fn parse(mut block: &[u8]) -> Result<Self, ProtocolError> {
        let count = usize::try_from(word(&mut block)?).unwrap_or(usize::MAX);
        if count > MAX_HEADERS {
            return Err(ProtocolError::HeadersTooLarge);
        }
        let pairs = (0..count).map(|_| Ok((text(&mut block)?, text(&mut block)?)));
        pairs.collect::<Result<_, _>>().map(Self)
    }

    fn write(&self) -> Vec<u8> {
        let length = |length: usize| u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes();
        let mut block = length(self.0.len()).to_vec();
        for (name, value) in &self.0 {
            for text in [&name.to_ascii_lowercase(), value] {
                block.extend_from_slice(&length(text.len()));
                block.extend_from_slice(text.as_bytes());
            }
        }
        block
    }
}

fn word(block: &mut &[u8]) -> Result<u32, ProtocolError> {
    let (word, rest) = block.split_first_chunk::<4>().ok_or(ProtocolError::Headers)?;
    *block = rest;
    Ok(u32::from_be_bytes(*word))
}

fn text(block: &mut &[u8]) -> Result<String, ProtocolError> {
    let length = usize::try_from(word(block)?).unwrap_or(usize::MAX);
    let (text, rest) = block.split_at_checked(length).ok_or(ProtocolError::Headers)?;
    *block = rest;
    Ok(String::from_utf8_lossy(text).into_owned())
}

/// Reads blocks; every one must be given, since each depends on those before.
#[derive(Debug, Default)]
pub(super) struct Inflater(Option<Decompress>);

impl Inflater {
    pub(super) fn read(&mut self, block: &[u8]) -> Result<Headers, ProtocolError> {
        let stream = self.0.get_or_insert_with(|| Decompress::new(true));
        // One byte more than allowed shows what is too large.
        let mut out = Vec::with_capacity(MAX_HEADER_BYTES + 1);
        let mut rest = block;
        while !rest.is_empty() {
            let (input, output) = (stream.total_in(), stream.total_out());
            let step = stream.decompress_vec(rest, &mut out, FlushDecompress::Sync);
            let consumed = usize::try_from(stream.total_in() - input).unwrap_or(usize::MAX);
            rest = rest.get(consumed..).ok_or(ProtocolError::Compression)?;
            match step {
                Ok(Status::Ok) => {}
                // Nothing more can be done with what is there.
                Ok(Status::BufError) => break,
                Ok(Status::StreamEnd) => return Err(ProtocolError::Compression),
                Err(error) if error.needs_dictionary().is_some() => {
                    stream.set_dictionary(&DICTIONARY).map_err(|_| ProtocolError::Compression)?;
                    continue;
                }
                Err(_) => return Err(ProtocolError::Compression),
            }
            if out.len() > MAX_HEADER_BYTES {
                return Err(ProtocolError::HeadersTooLarge);
            }
            if consumed == 0 && stream.total_out() == output {
                return Err(ProtocolError::Compression);
            }
        }
        if out.len() > MAX_HEADER_BYTES {
            return Err(ProtocolError::HeadersTooLarge);
        }
        Headers::parse(&out)
    }
}

/// Writes blocks. They are stored, not deflated: what a server answers with is a few bytes, and the state of a compressor a
/// quarter of a mebibyte for every connection.
#[derive(Debug, Default)]
pub(super) struct Deflater {
    begun: bool,
}

/// CMF and FLG of RFC 1950 with a preset dictionary; together a multiple of 31.
const ZLIB_HEAD: [u8; 2] = [0x78, 0x20 | (31 - (0x7820 % 31) as u8)];
/// An empty stored block: what came before it is complete for a reader.
const SYNC: [u8; 5] = [0, 0, 0, 0xff, 0xff];

impl Deflater {
    pub(super) fn write(&mut self, headers: &Headers) -> Vec<u8> {
        let mut out = Vec::new();
        if !std::mem::replace(&mut self.begun, true) {
            out.extend_from_slice(&ZLIB_HEAD);
            out.extend_from_slice(&DICTIONARY_ID.to_be_bytes());
        }
        for part in headers.write().chunks(usize::from(u16::MAX)) {
            let length = u16::try_from(part.len()).unwrap_or(u16::MAX);
            out.push(0);
            out.extend_from_slice(&length.to_le_bytes());
            out.extend_from_slice(&(!length).to_le_bytes());
            out.extend_from_slice(part);
        }
        out.extend_from_slice(&SYNC);
        out
    }
}

/// Adler-32 of the dictionary.
const DICTIONARY_ID: u32 = 0xe3c6_a7c2;

/// Section 2.6.10.1: words with their lengths, then words without.
static DICTIONARY: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut bytes = Vec::with_capacity(1423);
    for word in WORDS {
        bytes.extend_from_slice(&u32::try_from(word.len()).unwrap_or(0).to_be_bytes());
        bytes.extend_from_slice(word.as_bytes());
    }
    TAIL.iter().for_each(|part| bytes.extend_from_slice(part.as_bytes()));
    bytes
});

const WORDS: &[&str] = &[
    "options",
    "head",
    "post",
    "put",
    "delete",
    "trace",
    "accept",
    "accept-charset",
    "accept-encoding",
    "accept-language",
    "accept-ranges",
    "age",
    "allow",
    "authorization",
    "cache-control",
    "connection",
    "content-base",
    "content-encoding",
    "content-language",
    "content-length",
    "content-location",
    "content-md5",
    "content-range",
    "content-type",
    "date",
    "etag",
    "expect",
    "expires",
    "from",
    "host",
    "if-match",
    "if-modified-since",
    "if-none-match",
    "if-range",
    "if-unmodified-since",
    "last-modified",
    "location",
    "max-forwards",
    "pragma",
    "proxy-authenticate",
    "proxy-authorization",
    "range",
    "referer",
    "retry-after",
    "server",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "user-agent",
    "vary",
    "via",
    "warning",
    "www-authenticate",
    "method",
    "get",
    "status",
    "200 OK",
    "version",
    "HTTP/1.1",
    "url",
    "public",
    "set-cookie",
    "keep-alive",
    "origin",
];

const TAIL: &[&str] = &[
    "100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505",
    "203 Non-Authoritative Information204 No Content301 Moved Permanently400 Bad Request401 Unauthorized",
    "403 Forbidden404 Not Found500 Internal Server Error501 Not Implemented503 Service Unavailable",
    "Jan Feb Mar Apr May Jun Jul Aug Sept Oct Nov Dec 00:00:00 Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMT",
    "chunked,text/html,image/png,image/jpg,image/gif,application/xml,application/xhtml+xml,text/plain,text/javascript,",
    "publicprivatemax-age=gzip,deflate,sdchcharset=utf-8charset=iso-8859-1,utf-,*,enq=0.",
];

#[cfg(test)]
mod tests {
    use super::*;

    fn adler32(bytes: &[u8]) -> u32 {
        let (a, b) = bytes.iter().fold((1u32, 0u32), |(a, b), byte| {
            let a = (a + u32::from(*byte)) % 65521;
            (a, (b + a) % 65521)
        });
        b << 16 | a
    }

    #[test]
    fn the_dictionary_is_the_one_of_the_draft() {
        assert_eq!((DICTIONARY.len(), adler32(&DICTIONARY)), (1423, DICTIONARY_ID));
    }

    #[test]
    fn blocks_are_read_as_they_were_written() {
        let (mut deflater, mut inflater) = (Deflater::default(), Inflater::default());
        for value in ["stdin", "", &"x".repeat(4000)] {
            let headers = Headers(vec![("streamtype".into(), value.into()), ("port".into(), "80".into())]);
            assert_eq!(inflater.read(&deflater.write(&headers)).unwrap(), headers);
        }
        assert_eq!(inflater.read(&deflater.write(&Headers::default())).unwrap(), Headers::default());
    }

    /// As Go's clients write them: deflated, one stream over all blocks.
    #[test]
    fn deflated_blocks_are_read() {
        use flate2::{Compress, Compression, FlushCompress};
        let mut stream = Compress::new(Compression::best(), true);
        stream.set_dictionary(&DICTIONARY).unwrap();
        let mut inflater = Inflater::default();
        for kind in ["error", "stdin", "stdout"] {
            let headers = Headers(vec![("streamtype".into(), kind.into()), ("content-length".into(), "1".into())]);
            let mut block = Vec::with_capacity(1000);
            stream.compress_vec(&headers.write(), &mut block, FlushCompress::Sync).unwrap();
            assert_eq!(inflater.read(&block).unwrap(), headers);
        }
    }

    #[test]
    fn a_block_that_inflates_without_end_is_refused() {
        use flate2::{Compress, Compression, FlushCompress};
        let mut stream = Compress::new(Compression::best(), true);
        stream.set_dictionary(&DICTIONARY).unwrap();
        let mut block = Vec::with_capacity(100_000);
        stream.compress_vec(&vec![0; 10_000_000], &mut block, FlushCompress::Sync).unwrap();
        assert!(block.len() < 30_000);
        assert_eq!(Inflater::default().read(&block), Err(ProtocolError::HeadersTooLarge));
    }

    #[test]
    fn malformed_blocks_are_refused() {
        for block in [&[0xff, 0xff, 0xff, 0xff][..], &[0, 0, 0, 1, 0, 0, 0, 9, 1], &[0, 0]] {
            assert!(Headers::parse(block).is_err(), "{block:?}");
        }
        assert_eq!(Inflater::default().read(b"not zlib"), Err(ProtocolError::Compression));
    }
}
