// Matte things, glass, metal and lamps. Materials are numbered as in parts.Material.
const int GLASS = 4, EMISSIVE = 5, METAL = 6, SIGNAL = 7, BRAKE = 9;

void main() {
  vec3 n = normalize(world_normal), c = color;
  float gloss = 0.05, glow = 0.0;
  int material = int(kind.z + 0.5);
  if (material == GLASS) {
    vec3 r = reflect(normalize(world - eye), n);
    c = mix(c, fog_color, 0.2 + 0.4 * max(r.z, 0.0));
    gloss = 0.9;
  } else if (material == EMISSIVE) {
    glow = 1.0;
  } else if (material == METAL) {
    gloss = 0.35;
    c *= 0.96 + 0.06 * noise(local.xy * 6.0);
  } else if (material == SIGNAL) {
    // variant = which lamp (0 red, 1 amber, 2 green) + phase of the cycle of 24 s
    float t = fract(clock / 24.0 + fract(kind.w)), which = floor(kind.w);
    float lit_now = t < 0.4 ? 2.0 : t < 0.5 ? 1.0 : 0.0;
    glow = which == lit_now ? 1.0 : 0.0;
    c *= glow > 0.5 ? 1.0 : 0.12;
  } else if (material == BRAKE) {       // variant = how bright
    glow = max(kind.w, 0.5 * night);
    c *= 0.35 + 0.65 * glow;
  }
  finish(c, n, gloss, glow);
}
