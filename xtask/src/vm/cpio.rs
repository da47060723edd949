//! An initramfs: a cpio archive in the `newc` format that the kernel reads (Documentation/driver-api/early-userspace/buffer-format).

use std::io::{Result, Write};

/// Writes one archive; the kernel takes several, one after the other, in one file.
#[derive(Debug)]
pub struct Archive<W> {
    out: W,
    inode: u32,
    written: u64,
}

const DIRECTORY: u32 = 0o040_000;
const REGULAR: u32 = 0o100_000;
const LINK: u32 = 0o120_000;
const CHARACTER: u32 = 0o020_000;

impl<W: Write> Archive<W> {
    pub fn new(out: W) -> Self {
        Self { out, inode: 1, written: 0 }
    }

    pub fn directory(&mut self, name: &str, mode: u32) -> Result<()> {
        self.entry(name, DIRECTORY | mode, (0, 0), &[])
    }

    pub fn file(&mut self, name: &str, mode: u32, content: &[u8]) -> Result<()> {
        self.entry(name, REGULAR | mode, (0, 0), content)
    }

    pub fn symlink(&mut self, name: &str, target: &str) -> Result<()> {
        self.entry(name, LINK | 0o777, (0, 0), target.as_bytes())
    }

    pub fn character_device(&mut self, name: &str, mode: u32, major: u32, minor: u32) -> Result<()> {
        self.entry(name, CHARACTER | mode, (major, minor), &[])
    }

    /// Ends the archive; the next one starts on a block of its own.
    pub fn finish(mut self) -> Result<W> {
        self.entry("TRAILER!!!", 0, (0, 0), &[])?;
        self.pad(512)?;
        self.out.flush()?;
        Ok(self.out)
    }

    fn entry(&mut self, name: &str, mode: u32, device: (u32, u32), content: &[u8]) -> Result<()> {
        let size = u32::try_from(content.len()).map_err(|_| std::io::Error::other(format!("{name} is too large")))?;
        let name_size = u32::try_from(name.len() + 1).unwrap_or(u32::MAX);
        let fields = [self.inode, mode, 0, 0, 1, 0, size, 0, 0, device.0, device.1, name_size, 0];
        let mut header = String::from("070701");
        for field in fields {
            header.push_str(&format!("{field:08X}"));
        }
        self.inode += 1;
        self.write(header.as_bytes())?;
        self.write(name.as_bytes())?;
        self.write(b"\0")?;
        self.pad(4)?;
        self.write(content)?;
        self.pad(4)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.written += bytes.len() as u64;
        self.out.write_all(bytes)
    }

    fn pad(&mut self, to: u64) -> Result<()> {
        let missing = self.written.next_multiple_of(to) - self.written;
        self.write(&vec![0; usize::try_from(missing).unwrap_or(0)])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_a_header_a_name_and_content_each_padded() {
        let mut archive = Archive::new(Vec::new());
        archive.file("a", 0o644, b"xyz").unwrap();
        let bytes = archive.finish().unwrap();
        assert_eq!(&bytes[..6], b"070701");
        assert_eq!(&bytes[14..22], b"000081A4");
        assert_eq!(&bytes[110..112], b"a\0");
        assert_eq!(&bytes[112..116], b"xyz\0");
        assert_eq!(bytes.len() % 512, 0);
        assert!(bytes.windows(10).any(|part| part == b"TRAILER!!!"));
    }
}
