// A strip of quads in street coordinates that travels with the camera in whole steps.
in vec3 strip;                          // s - origin, d, z
uniform float origin;
out vec3 world;
out vec2 street;

void main() {
  street = vec2(strip.x + origin, strip.y);
  float h = heading(street.x);
  world = vec3(street.x - street.y * sin(h), lateral(street.x) + street.y * cos(h), strip.z);
  gl_Position = view_projection * vec4(world, 1);
}
