/** No tunnel: the uplink itself, with the tunnels' MTU. */
import { release } from 'node:os';

import { TUNNEL, UPLINK } from '../site.mjs';

/** @type {import('../peers.mjs').Peer} */
export default {
  name: 'none',
  kind: 'bare',
  find: () => null,
  version: () => `Linux ${release()}`,
  async start(site) {
    await Promise.all([site.client, site.server].map((host) => host.ip([`link set eth0 mtu ${TUNNEL.mtu}`])));
    return site.tunnel({}, UPLINK.server);
  },
};
