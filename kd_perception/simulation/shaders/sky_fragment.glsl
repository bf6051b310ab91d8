// Sky with clouds and the sun; drawn last, where nothing else is. Tag 11.
in vec2 at;
uniform mat3 camera_rotation;
uniform vec2 tangent;                   // tan of half the field of view, x and y
uniform vec3 zenith, horizon;
uniform float clouds;
layout(location = 0) out vec4 pixel;
layout(location = 1) out uvec2 ids_out;

void main() {
  vec3 d = normalize(camera_rotation * vec3(at * tangent, -1.0));
  float z = max(d.z, 0.0);
  vec3 c = mix(horizon, zenith, pow(z, 0.5));
  float cover = smoothstep(1.0 - clouds, 1.25 - clouds, fbm(d.xy / (z + 0.12) * 1.3 + seed));
  c = mix(c, mix(horizon, vec3(1), 0.5) * (1.0 - 0.9 * night), cover * 0.8);
  c += sun_color * 0.6 * pow(max(dot(d, sun), 0.0), 300.0) * (1.0 - night);
  c = mix(c, fog_color, clamp(fog * 55.0, 0.0, 1.0) * exp(-z * 3.0));
  pixel = vec4(c, 1);
  ids_out = uvec2(11u, 0u);
}
