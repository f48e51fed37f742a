//! A text as a QR code for a terminal.

use qrcode::render::unicode::Dense1x2;
use qrcode::{EcLevel, QrCode};

/// A QR code (ISO/IEC 18004) in half blocks, two rows of modules a line, with the quiet zone that readers need. Dark
/// modules are what is printed: show it dark on light. `None` if the text is too long for any, at 2,953 bytes.
///
/// The lowest level of error correction: a screen has no scratches, and a small code fits into more terminals.
pub fn qr_code(text: &str) -> Option<String> {
    let code = QrCode::with_error_correction_level(text, EcLevel::L).ok()?;
    Some(code.render::<Dense1x2>().quiet_zone(true).build())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a camera's software makes of it.
    fn read(code: &str) -> String {
        // Some pixels for each module, as a camera has them.
        const SCALE: usize = 4;
        let rows: Vec<Vec<bool>> = code
            .lines()
            .flat_map(|line| {
                let half = |dark: [char; 2]| line.chars().map(|c| dark.contains(&c)).collect::<Vec<_>>();
                [half(['█', '▀']), half(['█', '▄'])]
            })
            .collect();
        let side = rows[0].len();
        assert!(rows.iter().all(|row| row.len() == side), "each line is as long as the others");
        let dark = |x: usize, y: usize| rows.get(y / SCALE).is_some_and(|row| row[x / SCALE]);
        let mut image = rqrr::PreparedImage::prepare_from_bitmap(side * SCALE, rows.len() * SCALE, dark);
        let grids = image.detect_grids();
        assert_eq!(grids.len(), 1);
        grids[0].decode().unwrap().1
    }

    #[test]
    fn a_camera_reads_what_was_written() {
        for text in ["x".into(), format!("vpn://vpn.example.com/#{}.Zm9v_-", "k".repeat(43)), "ü".repeat(100)]
        {
            assert_eq!(read(&qr_code(&text).unwrap()), text);
        }
    }

    #[test]
    fn a_quiet_zone_is_around_it() {
        let code = qr_code("x").unwrap();
        let lines: Vec<&str> = code.lines().collect();
        for line in [&lines[..2], &lines[lines.len() - 2..]].concat() {
            assert_eq!(line.trim(), "");
        }
        for line in lines {
            assert!(line.starts_with("    ") && line.ends_with("    "), "{line:?}");
        }
    }

    #[test]
    fn what_fits_into_no_code_has_none() {
        assert!(qr_code(&"x".repeat(2953)).is_some());
        assert_eq!(qr_code(&"x".repeat(2954)), None);
    }
}
