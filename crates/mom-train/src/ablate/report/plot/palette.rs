//! Colours: dark ink on white, told apart under the common colour-vision deficiencies, each with a twin for dark pages.

use plotters::style::RGBColor;

use super::super::order;

/// A colour on a light page, and the one that replaces it on a dark page.
#[derive(Clone, Copy)]
pub(super) struct Colour {
    light: u32,
    dark: u32,
}

pub(super) const PAGE: Colour = Colour { light: 0xFFFFFF, dark: 0x181C21 };
pub(super) const INK: Colour = Colour { light: 0x1F2329, dark: 0xE7EAEE };
pub(super) const MUTED: Colour = Colour { light: 0x5C6570, dark: 0xA2ABB6 };
pub(super) const GRID: Colour = Colour { light: 0xE4E7EB, dark: 0x2E343C };
pub(super) const SHADE: Colour = Colour { light: 0xF5F6F8, dark: 0x1F242A };
const DENSE: Colour = Colour { light: 0x3D444D, dark: 0xC3CAD3 };
pub(super) const NULL: Colour = Colour { light: 0x8C96A1, dark: 0x8A949F };
const MOM: Colour = Colour { light: 0xD55E00, dark: 0xFF8A3D };
const PUBLISHED: Colour = Colour { light: 0x8A6A12, dark: 0xD9B44A };
const PROJECTIONS: [(&str, Colour); 4] = [
    ("in", Colour { light: 0x0067A5, dark: 0x58B0F0 }),
    ("x", Colour { light: 0x00875F, dark: 0x35C795 }),
    ("dt", Colour { light: 0xB0508A, dark: 0xE58CC2 }),
    ("out", Colour { light: 0x3A9BD9, dark: 0x8CCBF7 }),
];
const OTHERS: [Colour; 4] = [
    Colour { light: 0x6A4FB0, dark: 0xB09CF0 },
    Colour { light: 0x5B8A00, dark: 0xA5D04A },
    Colour { light: 0xA63D40, dark: 0xF08A8C },
    Colour { light: 0x1F7A8C, dark: 0x5CC4D6 },
];

impl Colour {
    /// The colour as drawn.
    pub(super) fn rgb(self) -> RGBColor {
        let [_, red, green, blue] = self.light.to_be_bytes();
        RGBColor(red, green, blue)
    }
}

/// The colour of a variant, always the same for the names of the paper's ablation; the others take turns.
pub(super) fn variant(name: &str, all: &[&str]) -> Colour {
    fixed(name).unwrap_or_else(|| {
        let turn = all.iter().filter(|other| fixed(other).is_none()).position(|&other| other == name).unwrap_or(0);
        OTHERS[turn % OTHERS.len()]
    })
}

fn fixed(name: &str) -> Option<Colour> {
    match name {
        order::DENSE => Some(DENSE),
        order::NULL => Some(NULL),
        order::MOM => Some(MOM),
        order::PUBLISHED => Some(PUBLISHED),
        _ => PROJECTIONS.iter().find(|(projection, _)| *projection == name).map(|&(_, colour)| colour),
    }
}

/// Every drawn colour with its twin for dark pages, as `#RRGGBB` the way the plots spell it.
pub(in super::super) fn dark_colours() -> impl Iterator<Item = (String, String)> {
    [PAGE, INK, MUTED, GRID, SHADE, DENSE, NULL, MOM, PUBLISHED]
        .into_iter()
        .chain(PROJECTIONS.map(|(_, colour)| colour))
        .chain(OTHERS)
        .map(|colour| (format!("#{:06X}", colour.light), format!("#{:06X}", colour.dark)))
}
