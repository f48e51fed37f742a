/** WireGuard in Go. */
import { wireguard } from '../wireguard.mjs';

export default wireguard('wireguard-go', 'wireguard-go', ['-f'], {
  LOG_LEVEL: 'error',
  WG_PROCESS_FOREGROUND: '1',
});
