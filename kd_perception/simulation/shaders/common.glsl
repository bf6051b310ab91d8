#version 330
// Shared by all passes: value noise, the curve of the street, light, shadow and fog.
// World frame: x, y on the ground, z up, metres; s runs along the street, d to its left.
uniform vec3 curve_a, curve_b;          // amplitude [m], wave number [1/m], phase
uniform vec3 eye, forward, sun, sun_color, ambient, fog_color;
uniform float fog, wet, night, seed, clock;
uniform vec4 lamps;                     // spacing, offset along s, lateral of the head, sides (1|2)
uniform mat4 view_projection, sun_projection;
uniform sampler2DShadow shadow_map;

float hash(vec2 p) {
  p = fract(p * vec2(123.34, 456.21));
  p += dot(p, p + 45.32);
  return fract(p.x * p.y);
}

float noise(vec2 p) {
  vec2 i = floor(p), f = fract(p);
  f = f * f * (3.0 - 2.0 * f);
  return mix(mix(hash(i), hash(i + vec2(1, 0)), f.x),
             mix(hash(i + vec2(0, 1)), hash(i + vec2(1, 1)), f.x), f.y);
}

float fbm(vec2 p) {
  return 0.5 * noise(p) + 0.3 * noise(p * 2.1 + 7.0) + 0.2 * noise(p * 4.3 + 3.0);
}

float lateral(float s) {
  return curve_a.x * sin(curve_a.y * s + curve_a.z) + curve_b.x * sin(curve_b.y * s + curve_b.z);
}

float heading(float s) {
  return atan(curve_a.x * curve_a.y * cos(curve_a.y * s + curve_a.z)
              + curve_b.x * curve_b.y * cos(curve_b.y * s + curve_b.z));
}

float sunlit(vec3 w, vec3 n) {
  vec3 u = (sun_projection * vec4(w + n * 0.08, 1)).xyz * 0.5 + 0.5;
  if (any(lessThan(u, vec3(0))) || any(greaterThan(u, vec3(1)))) return 1.0;
  return texture(shadow_map, vec3(u.xy, u.z - 0.0015));
}

// Headlights of the own car and the nearest street lamp, for the night.
float artificial(vec3 w, vec3 n, vec3 v) {
  vec3 e = w - eye;
  float l = length(e), ahead = max(dot(e, forward), 0.1);
  vec3 off = e - forward * ahead;
  float beam = 1.6 * exp(-l * 0.035) * max(0.0, 1.0 - length(vec2(length(off.xy), off.z * 1.5) / ahead
    - vec2(0, -0.1)) * 1.5) * max(dot(n, v), 0.15);
  float d = w.y - lateral(w.x);
  float side = lamps.w > 1.5 && d > 0.0 ? 1.0 : -1.0;
  float nearest = (floor((w.x - lamps.y) / lamps.x + 0.5)) * lamps.x + lamps.y;
  vec3 to = vec3(nearest - w.x, side * lamps.z - d, 6.8 - w.z);
  float r2 = dot(to, to);
  return beam + (w.z < 6.8 ? 20.0 * max(dot(n, to) * inversesqrt(r2), 0.0) / (8.0 + r2) : 0.0);
}

vec3 lit(vec3 albedo, vec3 n, vec3 w, float gloss) {
  float s = sun_color.r + sun_color.b > 0.1 ? sunlit(w, n) : 1.0;
  vec3 v = normalize(eye - w);
  float highlight = gloss * pow(max(dot(reflect(-sun, n), v), 0.0), 40.0) * s;
  vec3 r = albedo * (ambient * (0.75 + 0.25 * n.z) + sun_color * max(dot(n, sun), 0.0) * s)
    + sun_color * highlight;
  if (night > 0.0) r += albedo * night * artificial(w, n, v) * vec3(1.0, 0.92, 0.75);
  return r;
}

vec3 fogged(vec3 c, vec3 w) {
  float l = distance(w, eye);
  return mix(fog_color, c, exp(-fog * l - fog * fog * l * l * 0.5));
}
