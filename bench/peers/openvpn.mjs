/** OpenVPN over TCP, its data in user space. */
import { FOLDER, TUNNEL, UPLINK } from '../site.mjs';
import { findProgram, missingPrograms, versionOf } from '../programs.mjs';

const PORT = 1194;

/** @type {import('../peers.mjs').Peer} */
export default {
  name: 'openvpn',
  kind: 'tunnel',
  find: () => missingPrograms(['openvpn']),
  version: () => /OpenVPN \S+/.exec(versionOf(findProgram('openvpn')))?.[0] ?? 'openvpn',
  async start(site) {
    const common = [
      findProgram('openvpn'), '--dev', 'tun', '--disable-dco', '--tun-mtu', `${TUNNEL.mtu}`,
      '--ca', `${FOLDER}/ca.crt`, '--cert', `${FOLDER}/own.crt`, '--key', `${FOLDER}/own.key`,
      '--data-ciphers', 'AES-256-GCM', '--verb', '1',
    ]; // prettier-ignore
    const server = site.startServer([
      ...common, '--proto', 'tcp-server', '--port', `${PORT}`, '--dh', 'none', '--topology', 'subnet',
      '--server', TUNNEL.network, TUNNEL.netmask,
    ]); // prettier-ignore
    await site.listens(site.server, server, 'tcp', PORT);
    const client = site.startClient([
      ...common, '--client', '--nobind', '--proto', 'tcp-client', '--remote', UPLINK.server, `${PORT}`,
      '--remote-cert-tls', 'server',
    ]); // prettier-ignore
    return site.tunnel({ client: [client], server: [server] });
  },
};
