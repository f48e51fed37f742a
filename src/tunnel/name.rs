//! Interface names.

/// The longest name the kernel takes, in bytes (`IFNAMSIZ` less its final zero).
const MAX_LEN: usize = 15;

/// Whether `name` is `^[A-Za-z0-9_.-]{1,15}$` and neither `.` nor `..`, which the kernel refuses.
///
/// Narrower than the kernel's own rule, so that a name can stand in a file name and in an nftables
/// table's name as it is.
pub fn is_valid_name(name: &str) -> bool {
    (1..=MAX_LEN).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-'))
        && !matches!(name, "." | "..")
}

/// The names that are tried when the configuration gives none, in order.
pub(super) fn candidates() -> impl Iterator<Item = String> {
    (0..MAX_AUTOMATIC).map(|number| format!("smartvpn{number}"))
}

/// Far more tunnels than one host holds; a bound only so that the search ends.
const MAX_AUTOMATIC: u32 = 1000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_the_kernel_and_a_path_take() {
        for good in ["a", "smartvpn0", "vpn.eu-1_x", "...", "123456789012345"] {
            assert!(is_valid_name(good), "{good}");
        }
    }

    #[test]
    fn names_that_are_refused() {
        for bad in ["", ".", "..", "1234567890123456", "a/b", "a b", "tun%d", "a:1", "é", "a\0", "a@b"] {
            assert!(!is_valid_name(bad), "{bad:?}");
        }
    }

    #[test]
    fn every_automatic_name_is_valid() {
        assert_eq!(candidates().next().as_deref(), Some("smartvpn0"));
        assert!(candidates().all(|name| is_valid_name(&name)));
    }
}
