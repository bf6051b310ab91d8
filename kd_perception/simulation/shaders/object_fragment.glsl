// Everything that is an instance. Materials are numbered as in world.Material.
in vec3 world, world_normal, local, local_normal;
flat in vec4 kind;
flat in vec3 color;
flat in vec2 id;
layout(location = 0) out vec4 pixel;
layout(location = 1) out uvec2 ids_out;

const int FACADE = 1, FOLIAGE = 2, GLASS = 4, EMISSIVE = 5, METAL = 6, SIGNAL = 7, SIGN = 8;

vec3 facade(vec3 c, float style, out float gloss, out float glow) {
  vec2 u = abs(local_normal.x) > 0.5 ? local.yz : local.xz;
  u.y += 50.0;
  vec2 cell = vec2(1.6 + style, 2.6 + 0.6 * fract(style * 7.0));
  vec2 g = fract(u / cell), at = floor(u / cell);
  c *= 0.85 + 0.25 * fbm(u * 1.5);
  if (style > 0.5) {                    // courses of brick
    float course = floor(u.y * 4.0);
    c *= 0.9 + 0.12 * step(0.1, fract(u.y * 4.0)) * step(0.06, fract(u.x * 2.0 + 0.5 * mod(course, 2.0)));
  }
  float wide = 0.14 + 0.14 * fract(style * 13.0);
  bool pane = g.x > wide && g.x < 1.0 - wide && g.y > 0.28 && g.y < 0.8;
  bool frame = g.x > wide - 0.04 && g.x < 1.04 - wide && g.y > 0.24 && g.y < 0.84;
  if (pane) {
    float on = step(0.95 - 0.5 * night, hash(at + style * 17.0));
    c = mix(vec3(0.16, 0.21, 0.27) + 0.12 * noise(at * 3.0 + u * 0.3), vec3(1.0, 0.85, 0.55),
            on * (0.2 + 0.8 * night));
    c *= g.x > 0.485 && g.x < 0.515 ? 1.8 : 1.0;
    glow = on * night;
    gloss = 0.6;
  } else if (frame) {
    c *= 1.18;
  }
  return c;
}

vec3 sign_face(vec3 c, float style) {
  float r = length(local.yz);
  if (local_normal.x > -0.5) return vec3(0.42);        // rim and grey back
  if (style < 0.3) return abs(local.z) < 0.07 && r < 0.27 ? vec3(0.95) : c;
  if (style < 0.65) {                                  // white field with a black figure
    if (r > 0.27) return c;
    float figure = hash(floor(local.yz * 22.0) + style * 9.0);
    return figure > 0.6 && r < 0.17 ? vec3(0.05) : vec3(0.95);
  }
  float arrow = abs(local.y) - 0.05 - 0.12 * step(0.05, local.z) * (0.22 - local.z) * 6.0;
  return arrow < 0.0 && abs(local.z) < 0.22 ? vec3(0.95) : c;
}

void main() {
  vec3 n = normalize(world_normal), c = color;
  float gloss = 0.05, glow = 0.0;
  int material = int(kind.z + 0.5);
  if (material == FACADE) {
    if (abs(local_normal.z) < 0.5) c = facade(c, kind.w, gloss, glow);
  } else if (material == FOLIAGE) {
    float q = fbm(local.xz * 5.0 + kind.w * 31.0) + 0.35 * noise(local.yx * 9.0);
    if (dot(n, normalize(eye - world)) < 0.55 * q - 0.05) discard;   // ragged outline
    c *= 0.45 + 1.1 * q;
  } else if (material == GLASS) {
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
  } else if (material == SIGN) {
    c = sign_face(c, kind.w);
    glow = 0.25 * night;                               // retro-reflection
  }
  vec3 x = lit(c, n, world, gloss);
  x = mix(x, c * 1.3, glow);
  pixel = vec4(fogged(x, world), 1);
  ids_out = uvec2(id + 0.5);
}
