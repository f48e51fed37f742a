/** What is measured side by side, in the order of the tables. */
import boringtun from './peers/boringtun.mjs';
import none from './peers/none.mjs';
import ocserv from './peers/ocserv.mjs';
import openvpn from './peers/openvpn.mjs';
import smartvpn from './peers/smartvpn.mjs';
import tlsRelay from './peers/tls-relay.mjs';
import wireguardGo from './peers/wireguard-go.mjs';

/**
 * @typedef {object} Peer
 * @property {string} name
 * @property {'tunnel' | 'relay' | 'bare'} kind a relay carries TCP streams and no packets
 * @property {() => string | null} find why it cannot run here
 * @property {() => string} version
 * @property {(site: import('./site.mjs').Site) => Promise<import('./site.mjs').Tunnel>} start starts both ends;
 *   the tunnel may come up later
 */

/** @type {Peer[]} */
export const PEERS = [none, tlsRelay, smartvpn, wireguardGo, boringtun, openvpn, ocserv];
