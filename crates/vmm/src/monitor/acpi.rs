//! The tables by which a kernel finds what the machine has (ACPI 6.5): hardware-reduced, so that there is no firmware to
//! talk to, no PIC and no PM timer.
//!
//! The DSDT names the virtio slots (`LNRO0005`, which is how distribution kernels find virtio-mmio), the serial ports, and
//! a power button that speaks through a generic event device, and where the VM generation identifier is. Sleep and reset are I/O ports of [`super::bus`].

use acpi_tables::aml::{
    self, Device, EISAName, IO, Interrupt, Memory32Fixed, Method, Name, Notify, Package, Path,
    ResourceTemplate,
};
use acpi_tables::fadt::{FADTBuilder, Flags};
use acpi_tables::gas::{AccessSize, AddressSpace, GAS};
use acpi_tables::madt::{
    EnabledStatus, IoApic, LocalInterruptController, MADT, ProcessorLocalApic,
};
use acpi_tables::rsdp::Rsdp;
use acpi_tables::sdt::Sdt;
use acpi_tables::xsdt::XSDT;
use acpi_tables::{Aml, AmlSink};

use super::bus::{RESET_PORT, RESET_VALUE, SERIAL_PORTS, SLEEP_CONTROL_PORT, SLEEP_STATUS_PORT};
use super::memory::{ACPI, ACPI_SIZE, GENERATION, IO_APIC, LOCAL_APIC, VIRTIO};
use crate::virtio::mmio;

const OEM: [u8; 6] = *b"GOURD ";
const OEM_TABLE: [u8; 8] = *b"GOURDVMM";
const OEM_REVISION: u32 = 1;

/// The interrupt line of the power button's event device.
pub const EVENT_LINE: u32 = 9;

/// What the tables tell of.
pub struct Hardware<'a> {
    /// Processors.
    pub vcpus: u32,
    /// The interrupt line of each virtio slot.
    pub virtio_lines: &'a [u32],
    /// How many serial ports.
    pub serials: usize,
    /// Whether there is a power button.
    pub power_button: bool,
}

/// The tables, from [`ACPI`] on. `None`: they have no room.
pub fn tables(hardware: &Hardware<'_>) -> Option<Vec<u8>> {
    const RSDP_ROOM: usize = 64;
    let mut bytes = vec![0; RSDP_ROOM];
    let mut put = |table: &dyn Aml| {
        let at = ACPI + bytes.len() as u64;
        table.to_aml_bytes(&mut bytes);
        bytes.resize(bytes.len().next_multiple_of(16), 0);
        at
    };
    let dsdt = put(&dsdt(hardware));
    let fadt = put(&Fadt(fadt(dsdt)));
    let madt = put(&madt(hardware.vcpus));
    let mut xsdt = XSDT::new(OEM, OEM_TABLE, OEM_REVISION);
    xsdt.add_entry(fadt);
    xsdt.add_entry(madt);
    let xsdt = put(&xsdt);
    let mut rsdp = Vec::new();
    Rsdp::new(OEM, xsdt).to_aml_bytes(&mut rsdp);
    bytes[..rsdp.len()].copy_from_slice(&rsdp);
    (bytes.len() as u64 <= ACPI_SIZE).then_some(bytes)
}

struct Fadt(acpi_tables::fadt::FADT);

impl Aml for Fadt {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        self.0.to_aml_bytes(sink);
    }
}

fn fadt(dsdt: u64) -> acpi_tables::fadt::FADT {
    /// No VGA, no MSI restriction, no CMOS clock, and (by its bit's absence) no 8042.
    const NO_VGA: u16 = 1 << 2;
    const NO_CMOS_RTC: u16 = 1 << 5;
    let port = |port: u16| {
        GAS::new(
            AddressSpace::SystemIo,
            8,
            0,
            AccessSize::ByteAccess,
            u64::from(port),
        )
    };
    let mut fadt = FADTBuilder::new(OEM, OEM_TABLE, OEM_REVISION)
        .dsdt_64(dsdt)
        .flag(Flags::HwReducedAcpi)
        .flag(Flags::ResetRegSup)
        .flag(Flags::PwrButton)
        .flag(Flags::SlpButton);
    fadt.iapc_boot_arch = (NO_VGA | NO_CMOS_RTC).into();
    fadt.reset_reg = port(RESET_PORT);
    fadt.reset_value = RESET_VALUE;
    fadt.sleep_control_reg = port(SLEEP_CONTROL_PORT);
    fadt.sleep_status_reg = port(SLEEP_STATUS_PORT);
    fadt.finalize()
}

fn madt(vcpus: u32) -> MADT {
    let controller = LocalInterruptController::Address(LOCAL_APIC);
    let mut madt = MADT::new(OEM, OEM_TABLE, OEM_REVISION, controller);
    for index in 0..vcpus as u8 {
        madt.add_structure(ProcessorLocalApic::new(
            index,
            index,
            EnabledStatus::Enabled,
        ));
    }
    madt.add_structure(IoApic::new(0, IO_APIC, 0));
    madt
}

fn dsdt(hardware: &Hardware<'_>) -> Sdt {
    let mut body = Vec::new();
    for (index, &line) in hardware.virtio_lines.iter().enumerate() {
        virtio(index, line).to(&mut body);
    }
    for (index, &(port, line)) in SERIAL_PORTS.iter().take(hardware.serials).enumerate() {
        serial(index, port, line, &mut body);
    }
    if hardware.power_button {
        power_button(&mut body);
    }
    generation(&mut body);
    // Sleep type 5 means off: what the sleep control register then gets.
    Name::new("_S5_".into(), &Package::new(vec![&5u8])).to_aml_bytes(&mut body);
    let mut dsdt = Sdt::new(*b"DSDT", 36, 6, OEM, OEM_TABLE, OEM_REVISION);
    dsdt.append_slice(&body);
    dsdt
}

struct Virtio {
    name: String,
    index: u32,
    line: u32,
}

fn virtio(index: usize, line: u32) -> Virtio {
    Virtio {
        name: format!("_SB_.V{index:03}"),
        index: index as u32,
        line,
    }
}

impl Virtio {
    fn to(&self, sink: &mut Vec<u8>) {
        let base = VIRTIO as u32 + self.index * mmio::SIZE as u32;
        Device::new(
            Path::new(&self.name),
            vec![
                &Name::new("_HID".into(), &"LNRO0005"),
                &Name::new("_UID".into(), &self.index),
                &Name::new("_CCA".into(), &aml::ONE),
                &Name::new(
                    "_CRS".into(),
                    &ResourceTemplate::new(vec![
                        &Memory32Fixed::new(true, base, mmio::SIZE as u32),
                        &Interrupt::new(true, true, false, false, self.line),
                    ]),
                ),
            ],
        )
        .to_aml_bytes(sink);
    }
}

fn serial(index: usize, port: u16, line: u32, sink: &mut Vec<u8>) {
    Device::new(
        Path::new(&format!("_SB_.COM{}", index + 1)),
        vec![
            &Name::new("_HID".into(), &EISAName::new("PNP0501")),
            &Name::new("_UID".into(), &(index as u32)),
            &Name::new(
                "_CRS".into(),
                &ResourceTemplate::new(vec![
                    &IO::new(port, port, 1, 8),
                    &Interrupt::new(true, true, false, false, line),
                ]),
            ),
        ],
    )
    .to_aml_bytes(sink);
}

fn power_button(sink: &mut Vec<u8>) {
    /// "Status has changed": the button was pressed.
    const PRESSED: u8 = 0x80;
    Device::new(
        "_SB_.PWRB".into(),
        vec![
            &Name::new("_HID".into(), &EISAName::new("PNP0C0C")),
            &Name::new("_UID".into(), &aml::ZERO),
        ],
    )
    .to_aml_bytes(sink);
    let line = Interrupt::new(true, true, false, false, EVENT_LINE);
    Device::new(
        "_SB_.GED_".into(),
        vec![
            &Name::new("_HID".into(), &"ACPI0013"),
            &Name::new("_UID".into(), &aml::ZERO),
            &Name::new("_CRS".into(), &ResourceTemplate::new(vec![&line])),
            &Method::new(
                "_EVT".into(),
                1,
                true,
                vec![&Notify::new(&Path::new("\\_SB_.PWRB"), &PRESSED)],
            ),
        ],
    )
    .to_aml_bytes(sink);
}

/// The device of Microsoft's "Virtual Machine Generation ID": two halves of the address at which a guest finds 16 bytes that no other
/// start of a machine has, to seed its random numbers. Drivers know it by its compatible name (Linux's `vmgenid`).
fn generation(sink: &mut Vec<u8>) {
    const NAME: &str = "VM_Gen_Counter";
    let (low, high) = (GENERATION as u32, (GENERATION >> 32) as u32);
    Device::new(
        "_SB_.VGEN".into(),
        vec![
            &Name::new("_HID".into(), &"GRDVMGEN"),
            &Name::new("_CID".into(), &NAME),
            &Name::new("_DDN".into(), &NAME),
            &Name::new("ADDR".into(), &Package::new(vec![&low, &high])),
        ],
    )
    .to_aml_bytes(sink);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Oracle: ACPI 6.5, section 20.2, by hand.
    #[test]
    fn the_generations_device_by_its_bytes() {
        let mut bytes = Vec::new();
        generation(&mut bytes);
        let parts: [&[u8]; 9] = [
            // DeviceOp, PkgLength, DualNamePrefix and two segments.
            b"\x5b\x82\x42\x05\x2e_SB_VGEN",
            // NameOp, the name, StringPrefix.
            b"\x08_HID\x0d",
            b"GRDVMGEN\0",
            b"\x08_CID\x0d",
            b"VM_Gen_Counter\0",
            b"\x08_DDN\x0d",
            b"VM_Gen_Counter\0",
            // PackageOp, PkgLength, two elements: DWordPrefix, ZeroOp.
            b"\x08ADDR\x12\x08\x02",
            b"\x0c\x00\x00\x0f\x00\x00",
        ];
        let want = parts.concat();
        assert_eq!(want.len(), 2 + 0x52);
        assert_eq!(bytes, want);
        assert_eq!(GENERATION % 4096, 0);
        // Every machine has it.
        let none = Hardware {
            vcpus: 1,
            virtio_lines: &[],
            serials: 0,
            power_button: false,
        };
        let tables = tables(&none).unwrap();
        assert!(tables.windows(want.len()).any(|part| part == want));
    }

    fn sum(bytes: &[u8]) -> u8 {
        bytes.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
    }

    fn table_at(bytes: &[u8], address: u64) -> &[u8] {
        let at = (address - ACPI) as usize;
        let len = u32::from_le_bytes(bytes[at + 4..at + 8].try_into().unwrap());
        &bytes[at..at + len as usize]
    }

    /// Follows the pointers as a kernel does.
    #[test]
    fn tables_are_linked_and_sum_to_zero() {
        let lines: Vec<u32> = super::super::VIRTIO_LINES.to_vec();
        let hardware = Hardware {
            vcpus: 4,
            virtio_lines: &lines,
            serials: 2,
            power_button: true,
        };
        let bytes = tables(&hardware).unwrap();
        assert_eq!(&bytes[..8], b"RSD PTR ");
        assert_eq!((sum(&bytes[..20]), sum(&bytes[..36])), (0, 0));
        let long =
            |bytes: &[u8], at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
        let xsdt = table_at(&bytes, long(&bytes, 24));
        assert_eq!((&xsdt[..4], sum(xsdt)), (&b"XSDT"[..], 0));
        let fadt = table_at(&bytes, long(xsdt, 36));
        assert_eq!((&fadt[..4], sum(fadt)), (&b"FACP"[..], 0));
        let madt = table_at(&bytes, long(xsdt, 44));
        assert_eq!((&madt[..4], sum(madt)), (&b"APIC"[..], 0));
        let dsdt = table_at(&bytes, long(fadt, 140));
        assert_eq!((&dsdt[..4], sum(dsdt)), (&b"DSDT"[..], 0));
    }
}
