/** WireGuard in Rust. */
import { wireguard } from '../wireguard.mjs';

export default wireguard('boringtun', 'boringtun-cli', ['-f', '--disable-drop-privileges'], {
  WG_LOG_LEVEL: 'error',
});
