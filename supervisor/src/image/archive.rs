//! Streams as they come: compressed in one of three ways.

use std::io::{self, BufReader, Cursor, Read};

use flate2::bufread::MultiGzDecoder;

use super::limits::ZSTD_WINDOW_LOG_MAX;

const BUFFER_BYTES: usize = 128 << 10;
/// Bytes that tell the formats apart.
const MAGIC_BYTES: u64 = 6;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Compression {
    None,
    Gzip,
    Zstd,
    /// Known, but not what images are compressed with.
    Other(&'static str),
}

/// By the first bytes, as every image tool does: media types are often wrong.
fn compression(magic: &[u8]) -> Compression {
    match magic {
        [0x1f, 0x8b, ..] => Compression::Gzip,
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Compression::Zstd,
        // A skippable frame may come first.
        [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Compression::Zstd,
        [b'B', b'Z', b'h', ..] => Compression::Other("bzip2"),
        [0xfd, b'7', b'z', b'X', b'Z', ..] => Compression::Other("xz"),
        _ => Compression::None,
    }
}

/// The uncompressed bytes of a stream.
pub fn decompress<'a>(mut stream: impl Read + 'a) -> io::Result<Box<dyn Read + 'a>> {
    let mut magic = Vec::new();
    stream.by_ref().take(MAGIC_BYTES).read_to_end(&mut magic)?;
    let compression = compression(&magic);
    let whole = BufReader::with_capacity(BUFFER_BYTES, Cursor::new(magic).chain(stream));
    Ok(match compression {
        Compression::None => Box::new(whole),
        Compression::Gzip => Box::new(BufReader::with_capacity(BUFFER_BYTES, MultiGzDecoder::new(whole))),
        Compression::Zstd => {
            let mut decoder = zstd::Decoder::with_buffer(whole)?;
            decoder.window_log_max(ZSTD_WINDOW_LOG_MAX)?;
            Box::new(BufReader::with_capacity(BUFFER_BYTES, decoder))
        }
        Compression::Other(name) => {
            let text = format!("compressed by {name}; images are plain, gzip or zstd");
            return Err(io::Error::new(io::ErrorKind::Unsupported, text));
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(bytes: &[u8]) -> io::Result<Vec<u8>> {
        let mut out = Vec::new();
        decompress(bytes)?.read_to_end(&mut out)?;
        Ok(out)
    }

    #[test]
    fn plain_gzip_and_zstd_give_the_same_bytes() {
        let text = b"some text".repeat(100);
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        io::Write::write_all(&mut gzip, &text).unwrap();
        let gzip = gzip.finish().unwrap();
        let zstd = zstd::encode_all(&text[..], 1).unwrap();
        for stream in [text.clone(), gzip.clone(), zstd] {
            assert_eq!(all(&stream).unwrap(), text);
        }
        assert_eq!(all(&[gzip.clone(), gzip].concat()).unwrap().len(), 2 * text.len());
        assert_eq!(all(b"").unwrap(), b"");
        assert!(all(b"BZh91AY").unwrap_err().to_string().contains("bzip2"));
    }
}
