// What lies on the lens, at half the size of the picture: drops, dirt and stray light.
// Out: where the line of sight is bent to (x, y), stray light, dirt.
in vec2 at;
flat in float sun_seen;
uniform float drops, dirt, flare;
uniform vec3 sun_at;
uniform vec2 tangent;
out vec4 lens;

// The bend by the drops of one size; z: how much is drop.
vec3 through(vec2 uv, float cells, float salt) {
  vec2 shape = vec2(tangent.x / tangent.y, 1.0) * cells;
  vec2 p = uv * shape + salt * 7.0, cell = floor(p);
  vec2 centre = 0.5 + 0.45 * (vec2(hash(cell + salt), hash(cell + salt + 5.3)) - 0.5);
  float radius = 0.1 + 0.17 * hash(cell * 1.3 + salt + seed);
  // Each drop lives for a while, then another one comes.
  float life = clock * 0.05 + hash(cell + 2.7 * salt);
  float there = step(hash(cell * 1.7 + salt + floor(life)), 0.55 * drops);
  vec2 q = fract(p) - centre;
  float l = length(q * vec2(1.0, 0.86)) / radius;
  return vec3(-q / shape * (3.2 + 1.5 * l), there * smoothstep(1.0, 0.75, l));
}

void main() {
  vec2 uv = at;
  lens = vec4(0.0);
  if (drops > 0.0) {
    vec3 large = through(uv, 3.4, 1.0), small = through(uv, 8.0, 4.0);
    lens.xy = large.z > small.z ? large.xy * large.z : small.xy * small.z;
  }
  vec2 flat_at = vec2(1.0, tangent.y / tangent.x);
  if (flare > 0.0 && sun_seen > 0.0) {
    float away = length((uv - sun_at.xy) * flat_at);
    lens.z = 0.30 * exp(-1.3 * away) + 1.5 * exp(-9.0 * away);
    for (int i = 1; i < 4; ++i) {       // ghosts on the line through the middle
      float l = length((uv + sun_at.xy * (0.28 * float(i))) * flat_at);
      lens.z += 0.06 * smoothstep(0.035 * float(i) + 0.01, 0.03 * float(i), l);
    }
    lens.z *= flare * sun_seen;
  }
  if (dirt > 0.0) {
    lens.w = smoothstep(0.5, 0.78, fbm(uv * vec2(3.1, 2.2) + seed * 1.7))
      + 0.8 * smoothstep(0.9, 0.96, noise(uv * vec2(23.0, 14.0) + seed));
    lens.w = 0.5 * dirt * min(lens.w, 1.0);
  }
}
