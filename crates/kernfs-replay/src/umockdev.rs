//! Device records of umockdev, as `umockdev-record` makes them.
//!
//! ```text
//! P: /devices/pci0000:00/0000:00:1d.0/usb2
//! N: bus/usb/002/001=12010002
//! E: SUBSYSTEM=usb
//! E: DEVNAME=/dev/bus/usb/002/001
//! A: power/control=auto\n
//! H: descriptors=12010002
//! L: driver=../../../../bus/usb/drivers/usb
//! ```
//!
//! A paragraph is a device, with its properties (`E`), attributes as text (`A`, with the escapes of
//! C) or in hexadecimal (`H`), and links (`L`). Records tell neither modes nor subsystems' own
//! directories, so the tree is built as umockdev builds it: properties make the file `uevent`;
//! `subsystem` leads to a directory below `sys/class` or `sys/bus`, from which a link leads back,
//! and another from `sys/dev/char` or `sys/dev/block` where there is an attribute `dev`. What a
//! device node had (`N`) is a plain file below `dev`.

use std::io::BufRead;

use kernfs::{Mode, PAGE_SIZE};

use crate::archive::Wrong;
use crate::draft::{Draft, Refused};
use crate::image::{Content, Image};
use crate::limits::MAX_FILE;
use crate::lines::{Lines, assignment, excerpt, keyword};

/// Tells whether a text begins like one.
pub(crate) fn is_one(first_line: &[u8]) -> bool {
    first_line.starts_with(b"P: /devices/")
}

/// Subsystems that are buses: their devices are listed in `sys/bus`, those of others in
/// `sys/class`. Records do not tell.
const BUSES: &[&str] = &[
    "acpi",
    "ac97",
    "amba",
    "auxiliary",
    "bcma",
    "clockevents",
    "clocksource",
    "container",
    "cpu",
    "cxl",
    "dax",
    "edac",
    "eisa",
    "event_source",
    "faux",
    "firewire",
    "gameport",
    "genpd",
    "gpio",
    "greybus",
    "hdaudio",
    "hid",
    "i2c",
    "i3c",
    "iio",
    "isa",
    "machinecheck",
    "mdio_bus",
    "media",
    "mei",
    "memory",
    "mhi",
    "mipi-dsi",
    "mmc",
    "nd",
    "node",
    "nvmem",
    "of",
    "parport",
    "pci",
    "pci-epf",
    "pci_express",
    "pcmcia",
    "platform",
    "pnp",
    "rapidio",
    "rpmsg",
    "scsi",
    "sdio",
    "serial",
    "serial-base",
    "serio",
    "slimbus",
    "snd_seq",
    "soundwire",
    "spi",
    "spmi",
    "ssb",
    "thunderbolt",
    "typec",
    "ulpi",
    "usb",
    "usb-serial",
    "virtio",
    "vme",
    "w1",
    "wmi",
    "workqueue",
    "xen",
    "xen-backend",
];

/// Reads a record.
pub(crate) fn read(input: impl BufRead) -> Result<Image, Wrong> {
    let mut lines = Lines::new(input);
    let mut draft = Draft::new(Mode::DIR);
    let mut device: Option<Device> = None;
    while let Some(line) = lines.next()? {
        let taken = take(&mut draft, &mut device, line);
        taken.map_err(|wrong| lines.at(wrong))?;
    }
    if let Some(device) = device {
        device.finish(&mut draft).map_err(|wrong| lines.at(wrong))?;
    }
    Ok(draft.finish())
}

/// Takes a line.
fn take(draft: &mut Draft, device: &mut Option<Device>, line: &[u8]) -> Result<(), Wrong> {
    if line.is_empty() {
        return device.take().map_or(Ok(()), |device| device.finish(draft));
    }
    if line.starts_with(b"#") {
        return Ok(());
    }
    let wrong = || {
        let line = excerpt(line);
        Wrong::new(format!("'{line}' is not understood; expected a letter, a colon, and a value"))
    };
    let (kind, value) = keyword(line).filter(|(kind, _)| kind.len() == 1).ok_or_else(wrong)?;
    let Some(device) = device else {
        let path = value.strip_prefix(b"/").filter(|path| path.starts_with(b"devices/"));
        let path = path.filter(|_| kind == b"P").ok_or_else(|| {
            let line = excerpt(line);
            Wrong::new(format!("'{line}' begins no device; expected 'P: /devices/...'"))
        })?;
        *device = Some(Device::new(path));
        return Ok(());
    };
    let pair = || assignment(value).ok_or_else(wrong);
    match kind {
        b"A" => device.add(draft, pair()?.0, unescape(pair()?.1), PAGE_SIZE as u64),
        b"E" => device.property(pair()?),
        b"H" => {
            let (name, value) = pair()?;
            let bytes = unhex(value)?;
            let size = bytes.len() as u64;
            device.add(draft, name, bytes, size)
        }
        // What udevadm calls so is a number, and tells nothing here.
        b"L" => match assignment(value) {
            Some((name, text)) => device.link(draft, name, text),
            None => Ok(()),
        },
        b"N" => match assignment(value) {
            Some((name, hex)) => {
                let bytes = unhex(hex)?;
                let size = bytes.len() as u64;
                let path = [b"dev/", name].concat();
                named(&path, draft.add_file(&path, Mode::RW, size, Content::Bytes(bytes.into())))
            }
            None => Ok(()),
        },
        b"P" => Err(Wrong::new("a device begins within another; expected an empty line before")),
        // What udevadm tells besides: names of links to nodes, priorities, numbers.
        _ if kind[0].is_ascii_uppercase() => Ok(()),
        _ => Err(wrong()),
    }
}

/// A device that is being read.
struct Device {
    /// The path from the root of the image.
    path: Vec<u8>,
    uevent: Vec<u8>,
    subsystem: Option<Vec<u8>>,
    /// The attribute `dev`: major and minor number.
    number: Option<Vec<u8>>,
}

impl Device {
    fn new(path: &[u8]) -> Self {
        let path = [b"sys/", path].concat();
        Self { path, uevent: Vec::new(), subsystem: None, number: None }
    }

    fn property(&mut self, (name, value): (&[u8], &[u8])) -> Result<(), Wrong> {
        // The kernel tells it without.
        let is_node = name == b"DEVNAME";
        let value = value.strip_prefix(b"/dev/").filter(|_| is_node).unwrap_or(value);
        if name == b"SUBSYSTEM" && self.subsystem.replace(value.into()).is_some() {
            return Err(Wrong::new("it has two properties SUBSYSTEM").at(&self.path));
        }
        for part in [name, b"=", value, b"\n"] {
            self.uevent.extend_from_slice(part);
        }
        if self.uevent.len() > MAX_FILE {
            return Err(Wrong::new("its properties are too long").at(&self.path));
        }
        Ok(())
    }

    fn add(
        &mut self,
        draft: &mut Draft,
        name: &[u8],
        bytes: Vec<u8>,
        size: u64,
    ) -> Result<(), Wrong> {
        if name == b"dev" {
            self.number = Some(bytes.trim_ascii_end().into());
        }
        let path = self.below(name);
        named(&path, draft.add_file(&path, Mode::RW, size, Content::Bytes(bytes.into())))
    }

    fn link(&self, draft: &mut Draft, name: &[u8], text: &[u8]) -> Result<(), Wrong> {
        let path = self.below(name);
        named(&path, draft.add_link(&path, text))
    }

    /// Adds what the record only implies.
    fn finish(self, draft: &mut Draft) -> Result<(), Wrong> {
        let Some(subsystem) = &self.subsystem else {
            return Err(Wrong::new("it has no property SUBSYSTEM").at(&self.path));
        };
        let uevent = Content::Bytes(self.uevent.clone().into());
        let path = self.below(b"uevent");
        named(&path, draft.add_file(&path, Mode::RW, PAGE_SIZE as u64, uevent))?;

        let name = self.path.rsplit(|&byte| byte == b'/').next().unwrap_or_default();
        let is_bus = std::str::from_utf8(subsystem).is_ok_and(|name| BUSES.contains(&name));
        let (kind, list): (&[u8], &[u8]) =
            if is_bus { (b"bus", b"/devices") } else { (b"class", b"") };
        let home = [b"sys/", kind, b"/", subsystem].concat();
        self.link(draft, b"subsystem", &leading(&self.path, &home))?;
        self.link_from(draft, &[&home, list].concat(), name)?;

        if let Some(number) = self.number.as_ref().filter(|number| !number.is_empty()) {
            let kind = if subsystem == b"block" { "block" } else { "char" };
            self.link_from(draft, format!("sys/dev/{kind}").as_bytes(), number)?;
        }
        Ok(())
    }

    /// Adds a link to the device.
    fn link_from(&self, draft: &mut Draft, dir: &[u8], name: &[u8]) -> Result<(), Wrong> {
        let path = [dir, b"/", name].concat();
        named(&path, draft.add_link(&path, &leading(dir, &self.path)))
    }

    fn below(&self, name: &[u8]) -> Vec<u8> {
        [&self.path, &b"/"[..], name].concat()
    }
}

fn named(path: &[u8], added: Result<(), Refused>) -> Result<(), Wrong> {
    added.map_err(|refused| Wrong::from(refused).at(path))
}

/// Returns the text of a link that is in a directory and leads to a path; both are below `sys`.
fn leading(dir: &[u8], to: &[u8]) -> Vec<u8> {
    let ups = dir.split(|&byte| byte == b'/').filter(|part| !part.is_empty()).count() - 1;
    let to = to.strip_prefix(b"sys/").unwrap_or(to);
    [&b"../".repeat(ups), to].concat()
}

/// Undoes the escapes of C; a backslash before anything else stands for that.
fn unescape(mut text: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len());
    while let Some((&byte, rest)) = text.split_first() {
        text = rest;
        if byte != b'\\' {
            bytes.push(byte);
            continue;
        }
        let digits = text.iter().take(3).take_while(|byte| (b'0'..=b'7').contains(byte)).count();
        if digits > 0 {
            let value =
                text[..digits].iter().fold(0, |value, digit| value * 8 + u32::from(digit - b'0'));
            // As in C, what is beyond a byte is cut off.
            bytes.push((value & 0xff) as u8);
            text = &text[digits..];
            continue;
        }
        let Some((&escaped, rest)) = text.split_first() else { break };
        text = rest;
        bytes.push(match escaped {
            b'b' => 8,
            b'f' => 12,
            b'n' => b'\n',
            b'r' => b'\r',
            b't' => b'\t',
            b'v' => 11,
            other => other,
        });
    }
    bytes
}

fn unhex(text: &[u8]) -> Result<Vec<u8>, Wrong> {
    let wrong = || Wrong::new(format!("'{}' is not hexadecimal", excerpt(text)));
    let digit = |byte: u8| (byte as char).to_digit(16).ok_or_else(wrong);
    if !text.len().is_multiple_of(2) {
        return Err(wrong());
    }
    let pairs = text.chunks_exact(2);
    pairs.map(|pair| Ok((digit(pair[0])? * 16 + digit(pair[1])?) as u8)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_escapes_of_c_are_undone() {
        assert_eq!(unescape(br"auto\n"), b"auto\n");
        assert_eq!(unescape(br"a\\n\t\303\244\0\x\"), b"a\\n\t\xc3\xa4\0x");
    }

    #[test]
    fn hexadecimal_has_two_digits_for_a_byte() {
        assert_eq!(unhex(b"0081Fe0a").unwrap(), [0, 0x81, 0xfe, 0x0a]);
        assert!(unhex(b"008").is_err());
        assert!(unhex(b"0g").is_err());
    }

    #[test]
    fn links_lead_to_where_they_should() {
        assert_eq!(leading(b"sys/devices/a/b", b"sys/bus/usb"), b"../../../bus/usb");
        assert_eq!(leading(b"sys/class/net", b"sys/devices/a"), b"../../devices/a");
    }
}
